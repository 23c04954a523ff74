"""How many numbers it takes to say where points lie: the dimension of the surface that they are near, of any shape.

The effective dimension of `filter_structure` counts directions, so a curved surface has more of them than dimensions.
These estimates look at each point's nearest neighbours alone, among which a surface is flat.

Both fall short of a dimension beyond about ten unless there are very many points: of 27 independent normal numbers,
2000 points show about 19 (a test holds this). They are a lower bound then, and comparable only for as many points.

Sources: Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", NeurIPS 2004; MacKay and
Ghahramani, comments on it, 2005 (inverses are averaged, which is the estimate of maximum likelihood for all points
together); Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood information",
Scientific Reports 2017 (TwoNN).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.random_draws import random_rows

MOST_POINTS = 2000
"""Points whose neighbours are searched, drawn at random where there are more: the time grows with their square."""
NEIGHBOURS = 20
"""Neighbours of each point: few enough to be near it, many enough that their distances are no accident."""
_KEPT = 0.9
"""Share of the points that the line of TwoNN is fitted to, as published: the farthest neighbours are not local."""


def maximum_likelihood_dimension(
    points: Tensor, neighbours: int = NEIGHBOURS, generator: torch.Generator | None = None
) -> float:
    """Estimates the dimension from the distances T_1 ≤ … ≤ T_k of each point to its nearest neighbours.

    The inverse of the estimate is the mean of log(T_k / T_j) over all points and all j < k.

    Args:
        points: `[N, D]`; repeated ones count once.
        neighbours: k, at least 2; of fewer points, all others of each.
        generator: draws the points to look at, of more than `MOST_POINTS`.

    Returns:
        The estimate; 0 of fewer than three different points, which lie on no surface in particular.
    """
    distances = _neighbour_distances(points, neighbours, generator)
    if distances.shape[1] < 2:
        return 0.0
    logs = np.log(distances)
    return _inverse(float((logs[:, -1:] - logs[:, :-1]).mean()), points.shape[1])


def two_nearest_dimension(points: Tensor, generator: torch.Generator | None = None) -> float:
    """Estimates the dimension from the two nearest neighbours of each point alone (TwoNN).

    The ratio μ of their distances has the distribution function F(μ) = 1 − μ^(−d), so d is the slope of −log(1 − F)
    over log μ. Noise at the scale of these distances counts as dimensions.

    Args:
        points: `[N, D]`; repeated ones count once.
        generator: draws the points to look at, of more than `MOST_POINTS`.

    Returns:
        The estimate; 0 of fewer than three different points.
    """
    distances = _neighbour_distances(points, 2, generator)
    if distances.shape[1] < 2:
        return 0.0
    log_ratio = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    count = len(log_ratio)
    kept = max(int(_KEPT * count), 1)
    empirical = -np.log1p(-np.arange(1, kept + 1) / (count + 1))
    along = float(log_ratio[:kept] @ log_ratio[:kept])
    return _inverse(along / max(float(log_ratio[:kept] @ empirical), np.finfo(np.float64).tiny), points.shape[1])


def _inverse(value: float, most: int) -> float:
    """1 / value, and no more than points have numbers: neighbours may be equally far, as corners of a simplex are."""
    return 1 / value if value * most > 1 else float(most)


def _neighbour_distances(points: Tensor, neighbours: int, generator: torch.Generator | None) -> NDArray[np.float64]:
    """Distances of different points to their nearest neighbours, `[N, k]`, rising; no columns of fewer than three."""
    from scipy.spatial import KDTree

    # Dead filters are all one point; of a repeated point the nearest neighbour is at distance 0, whatever the surface.
    different = np.unique(points.detach().cpu().double().numpy(), axis=0)
    if len(different) > MOST_POINTS:
        different = different[random_rows(len(different), MOST_POINTS, generator).cpu().numpy()]
    if len(different) < 3:
        return np.empty((len(different), 0))
    nearest = min(neighbours, len(different) - 1)
    distances, _ = KDTree(different).query(different, k=nearest + 1)
    return np.maximum(np.asarray(distances)[:, 1:], np.finfo(np.float64).tiny)
