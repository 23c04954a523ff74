"""The volume interval of probabilities with correlated errors.

If the errors of voxels were independent, a volume of thousands of voxels would be almost certain; but a boundary that
is drawn too far out is usually too far out all around. One normal factor common to the voxels of a structure describes
this correlation (the one-factor Gaussian copula of Vasicek 1987, "Probability of loss on loan portfolio").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

LEVEL = 0.9
"""Default coverage of volume intervals."""


def correlated_volume_interval(
    probability: NDArray[np.floating], correlation: float, voxel_ml: float, level: float = LEVEL
) -> tuple[float, float]:
    """Returns the central interval of a structure's volume.

    Voxel v belongs to it if √ρ z + √(1 − ρ) ε_v < Φ⁻¹(p_v), with z common to all voxels and ε_v independent, both
    standard normal, so each voxel keeps its probability. Over many voxels the ε_v average out; the volume given z is
    Σ_v Φ((Φ⁻¹(p_v) − √ρ z) / √(1 − ρ)). It decreases in z, so its quantiles are its values at the quantiles of z.

    Args:
        probability: `[M]` of the voxels that may belong to the structure.
        correlation: ρ, from 0 (independent voxels: an interval without width) to below 1.
        voxel_ml: volume of a voxel.
        level: coverage.

    Returns:
        Lower and upper end in ml.
    """
    scores = ndtri(np.asarray(probability, dtype=np.float64))
    far = float(ndtri((1 + level) / 2))
    return volume_given(far, scores, correlation) * voxel_ml, volume_given(-far, scores, correlation) * voxel_ml


def volume_given(z: float, scores: NDArray[np.float64], correlation: float) -> float:
    """Returns the expected number of voxels with scores Φ⁻¹(p_v), given the common factor z (decreasing in z)."""
    return float(ndtr((scores - np.sqrt(correlation) * z) / np.sqrt(1 - correlation)).sum())
