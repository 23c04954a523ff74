"""Reading and writing image files.

NIfTI and MGH go through nibabel's headers, MetaImage and NRRD through SimpleITK's. The result is always a `Volume`; any
fault of a file is a `DataError` that names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.image_header import ImageHeader, format_shape, refuse
from data.input_file import require_regular_file
from data.itk_file import itk_array, open_itk, write_itk
from data.itk_header import read_itk_header
from data.label_map import as_brain_mask, as_label_map
from data.mgh_file import mgh_array, open_mgh
from data.nifti_file import nifti_array, open_nifti, pair_of, storable, write_nifti
from data.nifti_geometry import NiftiGeometry
from data.volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
PAIR_SUFFIXES = (".hdr", ".img")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
MGH_SUFFIXES = (".mgz", ".mgh")
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PAIR_SUFFIXES + MGH_SUFFIXES


@dataclass(frozen=True)
class _Format:
    """How files of one kind are read: a function that opens one, and one that reads the voxels of what it opened."""

    open: Callable[[Path], tuple[Any, ImageHeader]]
    array: Callable[[Path, Any, ImageHeader, int | None], tuple[NDArray, int]]


_FORMATS = {
    **dict.fromkeys(NIFTI_SUFFIXES + PAIR_SUFFIXES, _Format(open_nifti, nifti_array)),
    **dict.fromkeys(ITK_SUFFIXES, _Format(open_itk, itk_array)),
    **dict.fromkeys(MGH_SUFFIXES, _Format(open_mgh, mgh_array)),
}


@dataclass(frozen=True)
class Image:
    """All that a file holds.

    Attributes:
        header: what it claims.
        frames: one volume of a 3D file, one for each frame of a 4D file; values in the type that they are stored in,
            with scale factors applied.
    """

    header: ImageHeader
    frames: tuple[Volume, ...]


def image_suffix(path: Path) -> str:
    """Returns the image suffix of a path (`.nii.gz` counts as one), or an empty string."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def image_stem(path: Path) -> str:
    """Returns the file's name without its image suffix."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def image_parts(path: Path) -> tuple[Path, ...]:
    """Returns all files that an image consists of, the one with its header first.

    Where the header cannot be read, only the path itself is returned: reading the image reports why.
    """
    suffix = image_suffix(path)
    if suffix in PAIR_SUFFIXES:
        return pair_of(path)
    try:
        with _reading(path):
            stored = read_itk_header(path).files if suffix in ITK_SUFFIXES and path.is_file() else ()
    except DataError:
        return (path,)
    return tuple(dict.fromkeys((path, *stored)))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns an error of the system or of a library into one that names the file."""
    try:
        yield
    except PermissionError as error:
        raise refuse(path, "cannot be read: permission denied", "a readable file", f"run chmod u+r {path}") from error
    except (OSError, EOFError, ValueError, ArithmeticError) as error:
        reason = getattr(error, "strerror", None) or error
        raise refuse(path, f"cannot be read ({reason})", "a whole image file", "copy or export it again") from error
    except MemoryError as error:
        found = "does not fit into the memory of this machine"
        raise refuse(path, found, "a smaller image", "crop it, or use a larger machine") from error


def _format_of(path: Path) -> _Format:
    converter = "convert it to NIfTI, for example with dcm2niix"
    if os.path.isdir(path):
        raise refuse(path, "is a folder (DICOM series?)", "one image file", converter)
    require_regular_file(path, "an image file")
    suffix = image_suffix(path)
    if suffix:
        if path.stat().st_size == 0:
            raise refuse(path, "is empty", "a whole image file", "copy or export it again")
        return _FORMATS[suffix]
    with path.open("rb") as stream:
        dicom = stream.read(132)[128:] == b"DICM" or path.suffix.lower() in {".dcm", ".ima"}
    found = "is a DICOM file" if dicom else "is not a supported image file"
    fix = converter if dicom else "convert it to NIfTI"
    raise refuse(path, found, f"one of {', '.join(SUFFIXES)}", fix)


def read_header(path: Path) -> ImageHeader:
    """Reads shape, affine and stored type of an image file without its voxels.

    Raises:
        DataError: the file is missing, damaged, of an unknown kind, or claims more voxels than it can hold.
    """
    with _reading(path):
        return _format_of(path).open(path)[1]


def _read(path: Path, frame: int | None) -> tuple[NDArray, ImageHeader]:
    """Reads voxels as they are stored (scaled), `[X, Y, Z]` or `[X, Y, Z, frames]`, and the header."""
    with _reading(path):
        found = _format_of(path)
        source, header = found.open(path)
        if header.affine_fault:
            fix = "correct the header or export it again"
            raise refuse(path, header.affine_fault, "an affine that can be inverted", fix)
        array, ignored = found.array(path, source, header, frame)
    return array, replace(header, ignored_bytes=ignored)


def _require_3d(path: Path, array: NDArray, header: ImageHeader) -> None:
    if array.ndim != 3:
        found = f"has shape {format_shape(header.shape)}"
        raise refuse(path, found, "one 3D volume", "take one frame or one channel of the series")


def read_volume(path: Path, frame: int | None = None) -> Volume:
    """Reads one 3D volume as float32, scale factors applied; from a 4D file the given frame, or its only one.

    Args:
        path: a file with one of `SUFFIXES`.
        frame: index along the fourth dimension; `None` accepts only 3D, or 4D with one frame.

    Raises:
        DataError: the file is missing, damaged, not 3D, or lacks that frame.
    """
    array, header = _read(path, frame)
    _require_3d(path, array, header)
    # What exceeds float32 becomes Inf, which the checks report; a warning here would only repeat it.
    with np.errstate(over="ignore", invalid="ignore"):
        return Volume(np.require(array, np.float32, ["C", "W"]), header.affine)


def read_image(path: Path) -> Image:
    """Reads header and all frames of a file in one pass.

    Raises:
        DataError: the file is missing, damaged, or has less than three or more than four dimensions.
    """
    array, header = _read(path, None)
    if array.ndim != 4:
        _require_3d(path, array, header)
        array = array[..., None]
    return Image(header, tuple(Volume(array[..., i], header.affine) for i in range(array.shape[3])))


def read_label(path: Path) -> Volume:
    """Reads a label map as int16; see `as_label_map`.

    Raises:
        DataError: as `read_volume`, or the values are not whole numbers of that range.
    """
    array, header = _read(path, None)
    _require_3d(path, array, header)
    return as_label_map(Volume(array, header.affine), str(path), header.step)


def read_brain_mask(path: Path) -> Volume:
    """Reads a brain mask as uint8, 1 in the brain; see `as_brain_mask`.

    Raises:
        DataError: as `read_volume`, or all voxels or none are brain.
    """
    array, header = _read(path, None)
    _require_3d(path, array, header)
    return as_brain_mask(Volume(array, header.affine), str(path))


def read_geometry(path: Path) -> NiftiGeometry | None:
    """Reads the geometry fields of a NIfTI file; `None` for other files, which state their geometry only once.

    Raises:
        DataError: the file cannot be read.
    """
    return NiftiGeometry.read(path) if image_suffix(path) in NIFTI_SUFFIXES + PAIR_SUFFIXES else None


def write_volume(volume: Volume, path: Path, geometry: NiftiGeometry | None = None) -> None:
    """Writes one volume; NIfTI files get sform and qform in scanner space and mm as unit.

    Args:
        volume: what to write.
        path: the file.
        geometry: of the NIfTI file on whose grid the volume lies; its fields are copied as they are.

    Raises:
        DataError: the file type is unknown or cannot hold the volume.
    """
    if image_suffix(path) in ITK_SUFFIXES:
        write_itk(storable(volume.array, path), volume.affine, path)
    elif geometry is not None:
        if geometry.shape != volume.shape:
            raise ValueError(f"the geometry is one of {geometry.shape} voxels, the volume has {volume.shape}")
        write_nifti(volume.array, volume.affine, path, geometry.header())
    else:
        write_frames([volume], path)


def write_frames(volumes: Sequence[Volume], path: Path) -> None:
    """Writes volumes of one grid into one NIfTI file, several of them as frames of a 4D image.

    The gzip stream carries neither time nor name, so the same volumes give the same bytes.

    Raises:
        DataError: the path does not end in a NIfTI suffix.
    """
    if image_suffix(path) not in NIFTI_SUFFIXES:
        raise refuse(
            path, "is not a file name for this image", f"one of {', '.join(NIFTI_SUFFIXES)}", "change the suffix"
        )
    first = volumes[0]
    if any(not first.same_grid(volume) for volume in volumes[1:]):
        raise ValueError("the frames of one file lie on one grid")
    array = first.array if len(volumes) == 1 else np.stack([volume.array for volume in volumes], axis=-1)
    write_nifti(array, first.affine, path)
