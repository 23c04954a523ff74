"""Reading and writing image files.

NIfTI goes through nibabel, MetaImage and NRRD through SimpleITK. What comes in is in the end always a `Volume`; what is
wrong with a file is a `DataError` that names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data.image_header import ImageHeader, format_shape, refuse
from data.itk_file import itk_array, open_itk, write_itk
from data.nifti_file import nifti_array, open_nifti, storable, write_nifti
from data.volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES

__all__ = [
    "ITK_SUFFIXES",
    "NIFTI_SUFFIXES",
    "SUFFIXES",
    "ImageHeader",
    "image_stem",
    "image_suffix",
    "read_frames",
    "read_header",
    "read_label",
    "read_volume",
    "write_frames",
    "write_volume",
]


def image_suffix(path: Path) -> str:
    """Returns the image suffix of a path (`.nii.gz` counts as one), or an empty string."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def image_stem(path: Path) -> str:
    """Returns the file's name without its image suffix."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def _require_image(path: Path) -> str:
    converter = "convert it to NIfTI, for example with dcm2niix"
    if path.is_dir():
        raise refuse(path, "is a folder (DICOM series?)", "one image file", converter)
    if not path.exists():
        raise refuse(path, "there is no such file", "an image file", "correct the path or restore the file")
    suffix = image_suffix(path)
    if not suffix:
        with path.open("rb") as stream:
            dicom = stream.read(132)[128:] == b"DICM" or path.suffix.lower() in {".dcm", ".ima"}
        found = "is a DICOM file" if dicom else "is not a supported image file"
        fix = converter if dicom else "convert it to NIfTI"
        raise refuse(path, found, f"one of {', '.join(SUFFIXES)}", fix)
    return suffix


def read_header(path: Path) -> ImageHeader:
    """Reads shape, affine and stored type of an image file without its voxels.

    Raises:
        DataError: the file is missing, damaged, of an unknown kind, or claims more voxels than it can hold.
    """
    opened = open_nifti if _require_image(path) in NIFTI_SUFFIXES else open_itk
    return opened(path)[1]


def _read(path: Path, frame: int | None) -> tuple[NDArray, ImageHeader]:
    """Reads voxels as they are stored (scaled), `[X, Y, Z]` or `[X, Y, Z, frames]`, and the header."""
    if _require_image(path) in NIFTI_SUFFIXES:
        image, header = open_nifti(path)
        array = nifti_array(path, image, header, frame)
    else:
        reader, header = open_itk(path)
        array = itk_array(path, reader, header, frame)
    if header.affine_fault:
        raise refuse(
            path, header.affine_fault, "an affine that can be inverted", "correct the header or export it again"
        )
    return array, header


def _require_3d(path: Path, array: NDArray, header: ImageHeader) -> None:
    if array.ndim != 3:
        found = f"has shape {format_shape(header.shape)}"
        raise refuse(path, found, "one 3D volume", "take one frame or one channel of the series")


def _contiguous(array: NDArray, dtype: DTypeLike) -> NDArray:
    # What exceeds float32 becomes Inf, which the checks report; a warning here would only repeat it.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array, dtype=dtype)


def read_volume(path: Path, frame: int | None = None, dtype: DTypeLike = np.float32) -> Volume:
    """Reads one 3D volume; of a 4D file the given frame, or its only one.

    Args:
        path: a `.nii`, `.nii.gz`, `.mha`, `.mhd` or `.nrrd` file.
        frame: index along the fourth dimension; `None` accepts only 3D, or 4D with one frame.
        dtype: type of the voxels, float32 by default; scale factors of the header are applied.

    Raises:
        DataError: the file is missing, damaged, not 3D, or lacks that frame.
    """
    array, header = _read(path, frame)
    _require_3d(path, array, header)
    return Volume(_contiguous(array, dtype), header.affine)


def read_frames(path: Path, dtype: DTypeLike = np.float32) -> list[Volume]:
    """Reads all frames of a file in one pass: one volume of a 3D file, one for each frame of a 4D file.

    Raises:
        DataError: the file is missing, damaged, or has less than three or more than four dimensions.
    """
    array, header = _read(path, None)
    if array.ndim == 4:
        return [Volume(_contiguous(array[..., i], dtype), header.affine) for i in range(array.shape[3])]
    _require_3d(path, array, header)
    return [Volume(_contiguous(array, dtype), header.affine)]


def read_label(path: Path, frame: int | None = None) -> Volume:
    """Reads a label map as int16.

    Raises:
        DataError: as `read_volume`, or the values are not whole numbers of that range.
    """
    array, header = _read(path, frame)
    _require_3d(path, array, header)
    if array.dtype.kind == "f" and (not np.isfinite(array).all() or (np.rint(array) != array).any()):
        raise refuse(
            path, "has label values that are not whole numbers", "whole numbers", "round or re-export the label"
        )
    low, high = array.min(), array.max()
    if low < 0 or high > np.iinfo(np.int16).max:
        raise refuse(
            path, f"has label values from {low:g} to {high:g}", "values from 0 to 32767", "renumber the labels"
        )
    return Volume(np.ascontiguousarray(array, dtype=np.int16), header.affine)


def write_volume(volume: Volume, path: Path) -> None:
    """Writes one volume; NIfTI files get sform and qform in scanner space and mm as unit.

    Raises:
        DataError: the file type is unknown or cannot hold the volume.
    """
    if image_suffix(path) in ITK_SUFFIXES:
        write_itk(storable(volume.array, path), volume.affine, path)
    else:
        write_frames([volume], path)


def write_frames(volumes: Sequence[Volume], path: Path) -> None:
    """Writes volumes of one grid into one NIfTI file, several of them as frames of a 4D image.

    The gzip stream carries neither time nor name, so the same volumes give the same bytes.

    Raises:
        DataError: the path does not end in a NIfTI suffix.
    """
    if image_suffix(path) not in NIFTI_SUFFIXES:
        raise refuse(path, "is no name for this image", f"one of {', '.join(NIFTI_SUFFIXES)}", "change the suffix")
    first = volumes[0]
    if any(not first.same_grid(volume) for volume in volumes[1:]):
        raise ValueError("the frames of one file lie on one grid")
    array = first.array if len(volumes) == 1 else np.stack([volume.array for volume in volumes], axis=-1)
    write_nifti(array, first.affine, path)
