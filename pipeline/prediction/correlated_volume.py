"""The volume interval of probabilities whose errors go together.

Voxels that were wrong independently of each other would leave a volume of thousands of them nearly certain; but a
boundary that was drawn a little further out was drawn so all around. One normal factor common to the voxels of a
structure says how much of that there is (the one-factor Gaussian copula of Vasicek 1987, "Probability of loss on loan
portfolio").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

LEVEL = 0.9
"""Coverage of volume intervals, where nothing else is asked for."""


def correlated_volume_interval(
    probability: NDArray[np.floating], correlation: float, voxel_ml: float, level: float = LEVEL
) -> tuple[float, float]:
    """Returns the central interval of a structure's volume.

    Voxel v belongs to it where √ρ z + √(1 − ρ) ε_v < Φ⁻¹(p_v), with z common and ε_v of its own, both standard normal.
    So each voxel keeps its probability. Of many voxels the ε_v average out, and what is left is the volume given z,
    Σ_v Φ((Φ⁻¹(p_v) − √ρ z) / √(1 − ρ)), which falls in z: its quantiles are its values at those of z.

    Args:
        probability: `[M]` of the voxels that may belong to the structure.
        correlation: ρ, 0 (each voxel by itself: an interval without width) … below 1.
        voxel_ml: volume of a voxel.
        level: coverage.

    Returns:
        Lower and upper end in ml.
    """
    scores = ndtri(np.asarray(probability, dtype=np.float64))
    far = float(ndtri((1 + level) / 2))
    return volume_given(far, scores, correlation) * voxel_ml, volume_given(-far, scores, correlation) * voxel_ml


def volume_given(z: float, scores: NDArray[np.float64], correlation: float) -> float:
    """Returns the expected number of voxels of a structure, given the factor common to them.

    Args:
        z: the common factor; the larger, the smaller the structure.
        scores: `[M]`, Φ⁻¹(p_v).
        correlation: ρ.
    """
    return float(ndtr((scores - np.sqrt(correlation) * z) / np.sqrt(1 - correlation)).sum())
