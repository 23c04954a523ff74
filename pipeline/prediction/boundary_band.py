"""The voxels near the boundary of a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BAND = 5.0
"""Width in mm of the band around a mask's boundary in which foreground is expected outside the mask."""


def possible_voxels(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.bool_]:
    """Marks where a structure may be, `[X, Y, Z]`: in its mask and within `BAND` of its boundary.

    Farther away, a probability of one thousandth in each of a million voxels would outweigh the structure.
    """
    return mask | boundary_band(mask, spacing, BAND)


def boundary_band(mask: NDArray[np.bool_], spacing: Sequence[float], width: float) -> NDArray[np.bool_]:
    """Marks the voxels near the boundary of a mask, on both sides.

    Args:
        mask: boolean `[X, Y, Z]`.
        spacing: mm between voxel centres along each axis.
        width: mm to the nearest voxel centre on the other side of the boundary. The edge of the image does not count.

    Returns:
        Boolean `[X, Y, Z]`; all False for a mask that is empty or fills the image.
    """
    band = np.zeros(mask.shape, dtype=bool)
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return band
    reach = [math.ceil(width / step) + 1 for step in spacing]
    box = tuple(
        slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in zip(found[0], reach, mask.shape, strict=True)
    )
    part = mask[box]
    if part.all():
        return band
    inside = ndimage.distance_transform_edt(part, sampling=spacing)
    outside = ndimage.distance_transform_edt(~part, sampling=spacing)
    band[box] = np.where(part, inside, outside) <= width
    return band
