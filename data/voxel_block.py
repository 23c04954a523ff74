"""The voxels of a NIfTI or MGH file: one block after the header, plain or in a gzip stream."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.image_header import LARGEST_RATIO, ImageHeader, check_claim, chosen_frame, damaged
from data.packed_stream import DamagedStreamError, inflate


def check_block(path: Path, header: ImageHeader, file: Path, offset: int, packed: bool) -> None:
    """Checks, without reading it, that a file can hold the voxels that its header claims.

    Raises:
        DataError: the header claims more.
    """
    size = file.stat().st_size
    available = size * LARGEST_RATIO if packed else max(size - offset, 0)
    check_claim(path, header.shape, header.dtype.itemsize, available)


def read_block(
    path: Path, header: ImageHeader, frame: int | None, file: Path, offset: int, packed: bool
) -> tuple[NDArray, int, int]:
    """Reads the voxels of one frame, or all of them: `[X, Y, Z]` or `[X, Y, Z, frames]`.

    Returns:
        The voxels as stored, the bytes that follow them, and the bytes that follow the gzip stream.

    Raises:
        DataError: the file is truncated or damaged, or lacks the frame.
    """
    count = math.prod(header.shape)
    wanted = offset + count * header.dtype.itemsize
    content = file.read_bytes()
    held, after = len(content), 0
    try:
        if packed:
            content, held, after = inflate(content, wanted, gzip_only=True)
    except DamagedStreamError as error:
        raise damaged(path, error) from error
    check_claim(path, header.shape, header.dtype.itemsize, max(held - offset, 0))
    array = np.frombuffer(content, header.dtype, count, offset).reshape(header.volume_shape, order="F")
    return chosen_frame(path, array, frame), held - wanted, after
