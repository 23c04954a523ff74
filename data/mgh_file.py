"""FreeSurfer's MGH files (`.mgh`, `.mgz`), read through nibabel's header."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data.image_header import AGAIN, ImageHeader, refuse, require_numbers
from data.voxel_block import check_block, read_block

_OFFSET = 284
_VALID = slice(28, 30)
"""Where the header says whether its orientation is valid."""


def open_mgh(path: Path) -> tuple[MGHHeader, ImageHeader]:
    """Opens a file and reads its header.

    Raises:
        DataError: it is not an MGH file, is damaged, or claims more voxels than it can hold.
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
    check_block(path, header, path, _OFFSET, _is_packed(path))
    return raw, header


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".mgz"


def mgh_array(path: Path, source: MGHHeader, header: ImageHeader, frame: int | None) -> tuple[NDArray, int]:
    """Reads the voxels of one frame, or all of them: `[X, Y, Z]` or `[X, Y, Z, frames]`.

    Returns:
        The voxels, and the number of ignored bytes after the compressed stream. The bytes after the voxels within the
        stream are FreeSurfer's tags.

    Raises:
        DataError: the file is truncated or damaged, or lacks the frame.
    """
    array, _, after = read_block(path, header, frame, path, _OFFSET, _is_packed(path))
    return array, after
