"""FreeSurfer's MGH files (`.mgh`, `.mgz`), read through nibabel's header."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data.image_header import (
    AGAIN,
    LARGEST_RATIO,
    ImageHeader,
    check_claim,
    chosen_frame,
    damaged,
    refuse,
    require_numbers,
)
from data.packed_stream import DamagedStreamError, inflate

_OFFSET = 284
_VALID = slice(28, 30)
"""Where the header says whether its orientation is valid."""


def open_mgh(path: Path) -> tuple[MGHHeader, ImageHeader]:
    """Opens a file and reads its header.

    Raises:
        DataError: it is no MGH file, is damaged, or claims more voxels than it can hold.
    """
    try:
        with path.open("rb") as stream:
            packed = stream.read(8 * _OFFSET)
        block = zlib.decompressobj(31).decompress(packed, _OFFSET) if _is_packed(path) else packed[:_OFFSET]
        if len(block) < _OFFSET:
            raise refuse(path, "cannot be read", "a whole MGH file", AGAIN)
        raw = nib.MGHImage.header_class.from_fileobj(io.BytesIO(block))
        shape = tuple(int(n) for n in raw.get_data_shape())
        valid = int.from_bytes(block[_VALID], "big") == 1
        unplaced = "" if valid else "it calls its own orientation invalid (goodRASFlag)"
        affine = np.asarray(raw.get_affine(), np.float64)
        header = ImageHeader(shape, affine, raw.get_data_dtype(), unplaced=unplaced)
    except (zlib.error, HeaderDataError, ValueError, KeyError) as error:
        raise refuse(path, f"cannot be read ({error})", "a whole MGH file", AGAIN) from error
    require_numbers(path, header.dtype)
    size = path.stat().st_size
    available = size * LARGEST_RATIO if _is_packed(path) else max(size - _OFFSET, 0)
    check_claim(path, header.shape, header.dtype.itemsize, available)
    return raw, header


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".mgz"


def mgh_array(path: Path, source: MGHHeader, header: ImageHeader, frame: int | None) -> tuple[NDArray, int]:
    """Reads the voxels of one frame, or all of them: `[X, Y, Z]` or `[X, Y, Z, frames]`.

    Returns:
        the voxels, and the number of bytes after the compressed stream, which were ignored; what follows the voxels
        within it are tags of FreeSurfer.

    Raises:
        DataError: the file is truncated or damaged, or lacks the frame.
    """
    count = math.prod(header.shape)
    content = path.read_bytes()
    held, ignored = len(content), 0
    try:
        if _is_packed(path):
            content, held, ignored = inflate(content, _OFFSET + count * header.dtype.itemsize, gzip_only=True)
    except DamagedStreamError as error:
        raise damaged(path, error) from error
    check_claim(path, header.shape, header.dtype.itemsize, max(held - _OFFSET, 0))
    array = np.frombuffer(content, header.dtype, count, _OFFSET).reshape(header.volume_shape, order="F")
    return chosen_frame(path, array, frame), ignored
