"""Reading and writing image files.

NIfTI goes through nibabel, MetaImage and NRRD through SimpleITK. What comes in is in the end always a `Volume`; what is
wrong with a file is a `DataError` that names it.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from data.errors import DataError
from data.volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd")
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES

# Deflate cannot pack better than about 1032:1, so a header that claims more than that is wrong.
_LARGEST_RATIO = 1100
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# nibabel's header and file errors, a torn or damaged gzip stream, and what the system says of the file.
_READ_ERRORS = (ImageFileError, HeaderDataError, EOFError, zlib.error, OSError, ValueError, OverflowError)


@dataclass(frozen=True)
class ImageHeader:
    """What a file claims about itself, read without its voxels.

    Attributes:
        shape: all dimensions, a fourth one for frames or channels included.
        affine: `[4, 4]`, voxel indices to RAS+ mm.
        dtype: how the voxels are stored.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype


def image_suffix(path: Path) -> str:
    """Returns the image suffix of a path (`.nii.gz` counts as one), or an empty string."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def image_stem(path: Path) -> str:
    """Returns the file's name without its image suffix."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def _refuse(path: Path, found: str, expected: str, mend: str) -> DataError:
    return DataError(f"{path}: {found}", expected=expected, mend=mend)


def _require_image(path: Path) -> str:
    if path.is_dir():
        raise _refuse(
            path, "is a folder (DICOM series?)", "one image file", "convert it to NIfTI, for example with dcm2niix"
        )
    if not path.exists():
        raise _refuse(path, "there is no such file", "an image file", "correct the path or restore the file")
    suffix = image_suffix(path)
    if not suffix:
        mend = "convert it to NIfTI, for example with dcm2niix" if path.suffix.lower() in {".dcm", ".ima"} else "convert it"
        raise _refuse(path, "is not a supported image file", f"one of {', '.join(SUFFIXES)}", mend)
    return suffix


def _open_nifti(path: Path) -> nib.spatialimages.SpatialImage:
    try:
        image = nib.load(path)
    except _READ_ERRORS as error:
        raise _refuse(path, f"cannot be read ({error})", "a whole NIfTI file", "copy or export the file again") from error
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise _refuse(path, f"is a {type(image).__name__}", "a NIfTI volume", "export it as NIfTI")
    return image


def _check_claim(path: Path, image: nib.spatialimages.SpatialImage) -> None:
    """Compares the size that the header claims with the size of the file, before anything is allocated."""
    claimed = int(np.prod([int(n) for n in image.shape], dtype=object)) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    possible = size * _LARGEST_RATIO if path.name.lower().endswith(".gz") else size
    if claimed > possible:
        shape = "×".join(str(n) for n in image.shape)
        raise _refuse(
            path,
            f"its header claims {shape} voxels ({claimed:,} bytes), the file has {size:,} bytes",
            "a header that agrees with the data",
            "copy or export the file again",
        )


def read_header(path: Path) -> ImageHeader:
    """Reads shape, affine and stored type of an image file without its voxels.

    Raises:
        DataError: the file is missing, damaged, of an unknown kind, or claims more voxels than it can hold.
    """
    if _require_image(path) in NIFTI_SUFFIXES:
        image = _open_nifti(path)
        _check_claim(path, image)
        if image.affine is None:
            raise _refuse(path, "has no affine", "a NIfTI volume with sform or qform", "export it again")
        return ImageHeader(tuple(int(n) for n in image.shape), np.asarray(image.affine), image.get_data_dtype())
    reader = _itk_reader(path)
    size = tuple(int(n) for n in reader.GetSize())
    frames = reader.GetNumberOfComponents()
    return ImageHeader(size + ((frames,) if frames > 1 else ()), _itk_affine(reader), np.dtype(np.float32))


def read_volume(path: Path, frame: int | None = None, dtype: DTypeLike = np.float32) -> Volume:
    """Reads one 3D volume; of a 4D file the given frame, or its only one.

    Args:
        path: a `.nii`, `.nii.gz`, `.mha`, `.mhd` or `.nrrd` file.
        frame: index along the fourth dimension; `None` accepts only 3D, or 4D with one frame.
        dtype: type of the voxels, float32 by default; scale factors of the header are applied.

    Raises:
        DataError: the file is missing, damaged, not 3D, or lacks that frame.
    """
    header = read_header(path)
    if image_suffix(path) in NIFTI_SUFFIXES:
        array = _nifti_array(path, header, frame)
    else:
        array = _itk_array(path, frame)
    if array.ndim != 3 or 0 in array.shape:
        shape = "×".join(str(n) for n in header.shape)
        raise _refuse(path, f"has shape {shape}", "one 3D volume", "take one frame or one channel of the series")
    return Volume(np.ascontiguousarray(array, dtype=dtype), header.affine)


def _nifti_array(path: Path, header: ImageHeader, frame: int | None) -> NDArray:
    image = _open_nifti(path)
    shape = header.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    index: tuple = ...  # type: ignore[assignment]
    if len(shape) == 4 and frame is not None:
        if not 0 <= frame < shape[3]:
            raise _refuse(path, f"has {shape[3]} channels", f"a channel number {frame}", "correct the dataset's channels")
        index = (slice(None), slice(None), slice(None), frame)
    try:
        array = np.asarray(image.dataobj[index])
    except (*_READ_ERRORS, MemoryError) as error:
        raise _refuse(path, f"is truncated or damaged ({error})", "a whole file", "copy or export it again") from error
    return array.reshape(shape) if index is ... else array


def _itk_reader(path: Path):  # noqa: ANN202 (SimpleITK ships no types)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _refuse(path, "cannot be read", "a whole MetaImage or NRRD file", "copy or export it again") from error
    if reader.GetDimension() != 3:
        raise _refuse(path, f"is {reader.GetDimension()}D", "one 3D volume", "take one frame of the series")
    return reader


def _itk_affine(image) -> NDArray[np.float64]:  # noqa: ANN001
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine


def _itk_array(path: Path, frame: int | None) -> NDArray:
    import SimpleITK as sitk

    try:
        array = sitk.GetArrayFromImage(_itk_reader(path).Execute())
    except RuntimeError as error:
        raise _refuse(path, "is truncated or damaged", "a whole file", "copy or export it again") from error
    if array.ndim == 4 and frame is not None:
        if not 0 <= frame < array.shape[3]:
            raise _refuse(path, f"has {array.shape[3]} channels", f"a channel {frame}", "correct the dataset's channels")
        array = array[..., frame]
    return array.T if array.ndim == 3 else array


def read_label(path: Path, frame: int | None = None) -> Volume:
    """Reads a label map as int16.

    Raises:
        DataError: as `read_volume`, or the values are not whole numbers of that range.
    """
    volume = read_volume(path, frame, dtype=np.float64)
    array = volume.array
    if not np.isfinite(array).all() or (np.rint(array) != array).any():
        raise _refuse(path, "has label values that are not whole numbers", "whole numbers", "round or re-export the label")
    if array.min() < 0 or array.max() > np.iinfo(np.int16).max:
        raise _refuse(
            path, f"has label values from {array.min():g} to {array.max():g}", "values from 0 to 32767", "renumber the labels"
        )
    return volume.with_array(array.astype(np.int16))


def write_volume(volume: Volume, path: Path) -> None:
    """Writes a NIfTI file with sform and qform in scanner space and mm as unit."""
    write_frames([volume], path)


def write_frames(volumes: list[Volume], path: Path) -> None:
    """Writes volumes of one grid into one NIfTI file, several of them as frames of a 4D image.

    The gzip stream carries neither time nor name, so the same volumes give the same bytes.
    """
    first = volumes[0]
    array = first.array if len(volumes) == 1 else np.stack([v.array for v in volumes], axis=-1)
    image = nib.Nifti1Image(array, first.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(first.affine, code="scanner")
    # A sheared affine has no qform: nibabel then stores the nearest one, and the sform stays exact.
    image.set_qform(first.affine, code="scanner", strip_shears=True)
    image.to_filename(path)
