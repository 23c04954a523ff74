"""NIfTI files, read through nibabel without trusting their headers."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data.image_header import AGAIN, LARGEST_RATIO, ImageHeader, check_claim, refuse, unit_in_mm

# nibabel's header and file errors, a torn or damaged gzip stream, and what the system says of the file.
_READ_ERRORS = (ImageFileError, HeaderDataError, EOFError, zlib.error, OSError, ValueError, OverflowError)
_CHUNK = 1 << 20
_UNITS = {1: "meter", 2: "mm", 3: "micron"}


def open_nifti(path: Path) -> tuple[nib.Nifti1Image, ImageHeader]:
    """Opens a file and reads its header.

    Raises:
        DataError: it is no NIfTI file, is damaged, or claims more voxels than it can hold.
    """
    try:
        # What nibabel would log here (zero spacing and the like) is what the checks report.
        with LoggingOutputSuppressor():
            image = nib.load(path)
            if not isinstance(image, nib.Nifti1Image):
                raise refuse(path, f"is a {type(image).__name__}", "a NIfTI volume", "export it as NIfTI")
            header = _header(image)
    except _READ_ERRORS as error:
        raise refuse(path, f"cannot be read ({error})", "a whole NIfTI file", AGAIN) from error
    if header.dtype.fields is not None or header.dtype.kind not in "iuf":
        kind = "colours" if header.dtype.fields is not None else "complex numbers"
        raise refuse(path, f"holds {kind}", "one number per voxel", "export it as a grey-value or label volume")
    offset = int(image.dataobj.offset)
    itemsize = header.dtype.itemsize
    if not _is_gzip(path):
        check_claim(path, header.shape, itemsize, max(path.stat().st_size - offset, 0))
    else:
        check_claim(path, header.shape, itemsize, path.stat().st_size * LARGEST_RATIO)
        _check_gzip_claim(path, header, offset)
    return image, header


def diagnose_nifti(path: Path) -> list[str]:
    """Returns what nibabel finds wrong with a header and fixes silently when it reads it, such as a spacing of zero.

    Raises:
        DataError: the header cannot be read at all.
    """
    header_class = type(open_nifti(path)[0].header)
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as stream:
        block = stream.read(int(header_class.template_dtype.itemsize))
    text: str = header_class.diagnose_binaryblock(block)
    return [line.split(";")[0].strip() for line in text.splitlines() if line.strip()]


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _header(image: nib.Nifti1Image) -> ImageHeader:
    # The lowest three bits of xyzt_units; nibabel knows no unit for the codes that the standard leaves open.
    unit = _UNITS.get(int(image.header["xyzt_units"]) & 7, "unknown")
    raw = np.asarray(image.affine, dtype=np.float64)
    factor, ignored = unit_in_mm(unit, np.linalg.norm(raw[:3, :3], axis=0))
    to_mm = np.diag([factor, factor, factor, 1.0])
    forms = [image.header.get_sform(coded=True)[0], image.header.get_qform(coded=True)[0]]
    sform, qform = (None if form is None else to_mm @ np.asarray(form, dtype=np.float64) for form in forms)
    shape = tuple(int(n) for n in image.shape)
    return ImageHeader(shape, to_mm @ raw, image.get_data_dtype(), unit, ignored, sform, qform)


def _check_gzip_claim(path: Path, header: ImageHeader, offset: int) -> None:
    """Compares the claim with the size at the end of the gzip stream; counts the bytes where the two differ.

    The trailer of a gzip member ends in the size of its content modulo 2³² (RFC 1952). Of a truncated file, one with
    several members or with bytes after the voxels it says something else: then the stream is unpacked and counted, in
    chunks, so that nothing large is allocated for a wrong claim.
    """
    claimed = int(np.prod(header.shape, dtype=object)) * header.dtype.itemsize
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        trailer = int.from_bytes(stream.read(4), "little")
    if trailer == (claimed + offset) % 2**32:
        return
    try:
        with gzip.open(path) as stream:
            held = 0
            while chunk := stream.read(_CHUNK):
                held += len(chunk)
    except _READ_ERRORS as error:
        raise refuse(path, f"is truncated or damaged ({error})", "a whole file", AGAIN) from error
    check_claim(path, header.shape, header.dtype.itemsize, max(held - offset, 0))


def nifti_array(path: Path, image: nib.Nifti1Image, header: ImageHeader, frame: int | None) -> NDArray:
    """Reads the voxels of one frame, or all of them, with the scale factors applied.

    Returns:
        `[X, Y, Z]`, or `[X, Y, Z, frames]` for all frames of a series.

    Raises:
        DataError: the file is truncated or damaged (the checksum of a gzip stream is verified), or lacks the frame.
    """
    shape = header.volume_shape
    index: tuple[slice | int, ...] = (slice(None),) * len(header.shape)
    if frame is not None and len(shape) in (3, 4):
        frames = shape[3] if len(shape) == 4 else 1
        if not 0 <= frame < frames:
            found = f"has {frames} channel{'s' if frames > 1 else ''}"
            raise refuse(path, found, f"a channel number {frame}", "correct the dataset's channels")
        if len(shape) == 4:
            index = (slice(None), slice(None), slice(None), frame) + (0,) * (len(header.shape) - 4)
            shape = shape[:3]
    try:
        if not _is_gzip(path):
            return np.asarray(image.dataobj[index]).reshape(shape)
        with gzip.open(path) as stream, LoggingOutputSuppressor():
            array = np.asarray(type(image).from_stream(stream).dataobj[index]).reshape(shape)
            while stream.read(_CHUNK):  # To the end of the stream, where gzip compares its checksum.
                pass
        return array
    except (*_READ_ERRORS, MemoryError) as error:
        raise refuse(path, f"is truncated or damaged ({error})", "a whole file", AGAIN) from error


def storable(array: NDArray, path: Path) -> NDArray:
    """Returns the array in a type that NIfTI readers know: bool as uint8, 64-bit integers as 32-bit, half as single.

    Raises:
        DataError: the integers need more than 32 bits.
    """
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype in (np.int64, np.uint64):
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise refuse(path, "cannot hold integers of 64 bits", "values within 32 bits", "renumber the labels")
        return array.astype(np.int32)
    return array


def write_nifti(array: NDArray, affine: NDArray[np.float64], path: Path) -> None:
    """Writes a 3D or 4D array with sform and qform in scanner space and mm as unit."""
    image = nib.Nifti1Image(storable(array, path), affine)
    image.header.set_xyzt_units("mm")
    # A sheared affine has no qform: nibabel then stores the nearest one, and the sform stays exact.
    image.set_qform(affine, code="scanner", strip_shears=True)
    image.set_sform(affine, code="scanner")
    image.to_filename(path)
