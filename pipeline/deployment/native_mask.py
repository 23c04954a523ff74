"""The mask on the grid of the scan: the most probable class of each voxel, from maps that were carried there.

A bundle takes a copy of this file along, so that its masks are Graft's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from data.volume import Volume


def native_mask(maps: Iterable[Volume], values: Sequence[int]) -> Volume:
    """Returns the label map uint8 of the most probable class.

    The background has what the classes leave; of equally probable classes the first is taken, the background before
    all others.

    Args:
        maps: probability of each class but the background on one grid, taken one at a time: a scan may be much finer
            than the network's grid.
        values: value of each class in the mask.
    """
    mask: Volume | None = None
    for volume, value in zip(maps, values, strict=True):
        if mask is None:
            mask = volume.with_array(np.zeros(volume.shape, dtype=np.uint8))
            best, rest = np.zeros(volume.shape, np.float32), np.ones(volume.shape, np.float32)
        mask.array[volume.array > best] = value
        np.maximum(best, volume.array, out=best)
        rest -= volume.array
    if mask is None:
        raise ValueError("a mask needs a class")
    mask.array[best <= rest] = 0
    return mask
