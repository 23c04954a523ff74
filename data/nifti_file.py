"""NIfTI files, single or as a pair of `.hdr` and `.img`, read through nibabel's headers without trusting them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import imageglobals
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1PairHeader
from nibabel.nifti2 import Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from data.image_header import AGAIN, ImageHeader, refuse, require_numbers, unit_in_mm
from data.packed_stream import GZIP_MAGIC
from data.voxel_block import check_block, read_block

_HEADER_BYTES = 540
_UNITS = {1: "meter", 2: "mm", 3: "micron"}
# A quaternion whose vector part exceeds 1 by no more than this was rounded.
_QUATERNION_ROUNDING = 1e-3


@dataclass(frozen=True)
class NiftiSource:
    """An opened file.

    Attributes:
        raw: nibabel's header.
        voxels: the file that holds the voxels.
    """

    raw: nib.Nifti1Header
    voxels: Path

    @property
    def offset(self) -> int:
        """Unpacked bytes before the voxels."""
        return int(self.raw.get_data_offset())


def pair_of(path: Path) -> tuple[Path, Path]:
    """Returns header and voxels of a pair, of which either names both."""
    header, voxels = (".HDR", ".IMG") if path.suffix.isupper() else (".hdr", ".img")
    return path.with_suffix(header), path.with_suffix(voxels)


@contextmanager
def _without_log() -> Iterator[None]:
    """Keeps nibabel from logging, to any handler, what the checks report (zero spacing and the like)."""
    imageglobals.logger.disabled = True
    try:
        yield
    finally:
        imageglobals.logger.disabled = False


def open_nifti(path: Path) -> tuple[NiftiSource, ImageHeader]:
    """Opens a file and reads its header.

    Raises:
        DataError: it is not a NIfTI file, is damaged, or claims more voxels than it can hold.
    """
    named, voxels = pair_of(path) if path.suffix.lower() in (".hdr", ".img") else (path, path)
    for file in (named, voxels):
        if not file.is_file():
            raise refuse(path, f"its other half {file.name} is missing", "a pair of .hdr and .img", "restore that file")
    try:
        with _without_log():
            raw = _raw_header(named, _first_bytes(named))
            header = nifti_header(path, raw)
    except (ImageFileError, HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise refuse(path, f"cannot be read ({error})", "a whole NIfTI file", AGAIN) from error
    require_numbers(path, header.dtype)
    source = NiftiSource(raw, voxels)
    check_block(path, header, voxels, source.offset, _is_gzip(voxels))
    return source, header


def diagnose_nifti(path: Path) -> list[str]:
    """Returns the faults of a header that nibabel corrects silently when it reads it, such as a spacing of zero.

    Raises:
        DataError: the header cannot be read at all.
    """
    source, header = open_nifti(path)
    header_class = type(source.raw)
    named = pair_of(path)[0] if not header_class.is_single else path
    block = _first_bytes(named)[: int(header_class.template_dtype.itemsize)]
    text: str = header_class.diagnose_binaryblock(block)
    faults = [line.split(";")[0].strip() for line in text.splitlines() if line.strip()]
    if int(source.raw["qform_code"]) > 0 and header.qform is None:
        faults.append("its qform is not a rotation, so the sform is used")
    return faults


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _first_bytes(path: Path) -> bytes:
    """The unpacked bytes that hold the header."""
    with path.open("rb") as stream:
        if not _is_gzip(path):
            return stream.read(_HEADER_BYTES)
        packed = stream.read(8 * _HEADER_BYTES)
        if not packed.startswith(GZIP_MAGIC):
            found = "cannot be read (it is not compressed, although its name ends in .gz)"
            raise refuse(
                path, found, "a NIfTI file compressed with gzip", "rename it if it is a NIfTI file, or copy it again"
            )
        try:
            return zlib.decompressobj(31).decompress(packed, _HEADER_BYTES)
        except zlib.error as error:
            raise refuse(path, f"cannot be read ({error})", "a whole NIfTI file", AGAIN) from error


def _raw_header(path: Path, block: bytes) -> nib.Nifti1Header:
    second = int.from_bytes(block[:4], "little") == 540 or int.from_bytes(block[:4], "big") == 540
    magic = block[4:7] if second else block[344:347]
    if magic in (b"n+1", b"n+2"):
        kind = nib.Nifti2Header if second else nib.Nifti1Header
    elif magic in (b"ni1", b"ni2"):
        kind = Nifti2PairHeader if second else Nifti1PairHeader
    else:
        analyze = path.suffix.lower() == ".hdr" and len(block) >= 348
        found = "is an Analyze file, which does not say where left and right are" if analyze else "cannot be read"
        raise refuse(path, found, "a whole NIfTI file", "convert it to NIfTI" if analyze else AGAIN)
    if kind.is_single != (path.suffix.lower() != ".hdr"):
        raise refuse(path, "has the wrong suffix for its content", "a single file or a pair", "convert it to .nii.gz")
    return kind(block[: kind.template_dtype.itemsize])


def nifti_header(path: Path, raw: nib.Nifti1Header) -> ImageHeader:
    """Reads what nibabel's header of a NIfTI image claims.

    Raises:
        DataError: it has no valid orientation.
    """
    # The lowest three bits of xyzt_units; nibabel knows no unit for the codes that the standard leaves open.
    unit = _UNITS.get(int(raw["xyzt_units"]) & 7, "unknown")
    sform, _ = raw.get_sform(coded=True)
    qform = _qform(raw)
    if qform is None and sform is None and int(raw["qform_code"]) > 0:
        raise refuse(
            path, "its qform is not a rotation, and it has no sform", "a valid orientation", "correct its header"
        )
    best = next((form for form in (sform, qform) if form is not None), raw.get_base_affine())
    best = np.asarray(best, dtype=np.float64)
    factor, ignored = unit_in_mm(unit, np.linalg.norm(best[:3, :3], axis=0))
    to_mm = np.diag([factor, factor, factor, 1.0])
    sform, qform = (None if form is None else to_mm @ np.asarray(form, dtype=np.float64) for form in (sform, qform))
    shape = tuple(int(n) for n in raw.get_data_shape())
    unplaced = "neither sform nor qform is set (both codes are 0)" if sform is None and qform is None else ""
    dtype = raw.get_data_dtype()
    slope = float(raw["scl_slope"])
    step = abs(slope) if dtype.kind in "iu" and math.isfinite(slope) else 0.0
    return ImageHeader(shape, to_mm @ best, dtype, unit, ignored, sform, qform, unplaced, step=step)


def _qform(raw: nib.Nifti1Header) -> NDArray[np.float64] | None:
    """The affine of the qform; `None` if there is none, or if its quaternion is not a rotation."""
    if int(raw["qform_code"]) <= 0:
        return None
    fields = ("quatern_b", "quatern_c", "quatern_d")
    vector = np.array([float(raw[field]) for field in fields])
    length = float(np.linalg.norm(vector))
    if not length <= 1 + _QUATERNION_ROUNDING:
        return None
    if length > 1:
        raw = raw.copy()
        for field, value in zip(fields, vector / length, strict=True):
            raw[field] = value
    return np.asarray(raw.get_qform(coded=False), dtype=np.float64)


def nifti_array(path: Path, source: NiftiSource, header: ImageHeader, frame: int | None) -> tuple[NDArray, int]:
    """Reads the voxels of one frame, or all of them, with the scale factors applied.

    Returns:
        `[X, Y, Z]`, or `[X, Y, Z, frames]` for all frames of a series, and the number of bytes after the voxels or
        after the gzip stream, which were ignored.

    Raises:
        DataError: the file is truncated or damaged (the checksum of a gzip stream is verified), or lacks the frame.
    """
    packed = _is_gzip(source.voxels)
    array, ignored, after = read_block(path, header, frame, source.voxels, source.offset, packed)
    try:
        slope, intercept = source.raw.get_slope_inter()
    except HeaderDataError as error:
        raise refuse(path, f"has an impossible scale factor ({error})", "a finite one", "correct its header") from error
    if slope is not None:
        array = apply_read_scaling(array, slope, intercept)
    return array, ignored + after


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


def write_nifti(
    array: NDArray, affine: NDArray[np.float64], path: Path, header: nib.Nifti1Header | None = None
) -> None:
    """Writes a 3D or 4D array with sform and qform in scanner space and mm as unit.

    Args:
        array: `[X, Y, Z]` or `[X, Y, Z, frames]`.
        affine: `[4, 4]`, voxel indices to RAS+ mm.
        path: the file.
        header: its geometry fields are written as they are, instead of the affine.
    """
    stored = storable(array, path)
    if header is not None:
        header.set_data_dtype(stored.dtype)
        # Without an affine nibabel leaves the fields as they are.
        nib.Nifti1Image(stored, None, header).to_filename(path)
        return
    nifti_image(stored, affine).to_filename(path)


def nifti_image(array: NDArray, affine: NDArray[np.float64]) -> nib.Nifti1Image:
    """Returns nibabel's image of a storable array with sform and qform in scanner space and mm as unit."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    # A sheared affine has no qform: nibabel then stores the nearest one, and the sform stays exact.
    image.set_qform(affine, code="scanner", strip_shears=True)
    image.set_sform(affine, code="scanner")
    return image
