"""The grid of a plan: the median of the target's spacings, with care for thick slices (Isensee et al. 2021)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Spacing = tuple[float, float, float]

_ANISOTROPIC = 3.0
"""A coarse axis has voxels so many times longer, and a field of view of so many times fewer voxels."""
_PERCENTILE = 10.0
_DIGITS = 3


def planned_spacing(spacings: NDArray[np.float64], extent: NDArray[np.float64]) -> tuple[Spacing, str]:
    """Plans the spacing, and says why.

    Source: Isensee et al., nnU-Net, Nature Methods 18 (2021), supplement: the median along each axis; where slices are
    thick, the 10th percentile of their distance, but no less than the spacing within a slice.

    Args:
        spacings: `[N, 3]` mm of the annotated target scans.
        extent: `[3]` mm, the median field of view.

    Returns:
        mm along each axis.
    """
    spacing = np.median(spacings, axis=0)
    coarse = int(spacing.argmax())
    others = np.delete(np.arange(3), coarse)
    voxels = extent / spacing
    why = "the median of the target scans"
    if (
        spacing[coarse] > _ANISOTROPIC * spacing[others].max()
        and voxels[coarse] * _ANISOTROPIC < voxels[others].min()
        and (fine := float(np.percentile(spacings[:, coarse], _PERCENTILE))) < spacing[coarse]
    ):
        spacing[coarse] = max(fine, spacing[others].max())
        why += f"; along the thick slices, axis {coarse}, the 10th percentile, as nnU-Net plans"
    return _rounded(spacing), why


def coarser(spacing: Spacing, share: int) -> Spacing:
    """Returns a grid of so many times fewer voxels: the finest axes are coarsened first, none beyond the others."""
    own = np.sort(np.asarray(spacing))
    for fine in (1, 2, 3):
        # The finest axes at one spacing s, the others as they are: s^fine × the others = share × the product.
        level = float((share * own[:fine].prod()) ** (1 / fine))
        if fine == 3 or level <= own[fine]:
            break
    return _rounded(np.maximum(spacing, level))


def _rounded(spacing: NDArray[np.float64]) -> Spacing:
    x, y, z = (round(float(side), _DIGITS) for side in spacing)
    return x, y, z
