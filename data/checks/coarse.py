"""Coarse versions of a volume, for checks that compare whole images and need no detail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.volume import Volume, reorient


def coarsen(volume: Volume, step: float) -> Volume:
    """Returns block means in RAS orientation, blocks of at most `step` mm (one voxel at least)."""
    turned = reorient(volume, "RAS")
    block = np.clip(np.floor(step / turned.spacing + 1e-6), 1, turned.shape).astype(int)
    counts = np.array(turned.shape) // block
    whole = turned.array[tuple(slice(0, n) for n in counts * block)]
    parts = whole.reshape(counts[0], block[0], counts[1], block[1], counts[2], block[2])
    affine = turned.affine @ np.diag([*block, 1.0])
    affine[:3, 3] = (turned.affine @ [*((block - 1) / 2), 1.0])[:3]
    # The mean of values near the end of the range becomes Inf, which counts as no value.
    with np.errstate(over="ignore", invalid="ignore"):
        return Volume(parts.mean(axis=(1, 3, 5), dtype=np.float32), affine)


def clipped(array: NDArray, low: float = 0.5, high: float = 99.5) -> NDArray[np.float32]:
    """Returns the values scaled to 0…1 between two percentiles, what is not finite as 0."""
    finite = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    bottom, top = np.percentile(finite, [low, high])
    if top <= bottom:
        bottom, top = float(finite.min()), float(finite.max())
    scaled = (finite - bottom) / max(top - bottom, np.finfo(np.float32).tiny)
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)
