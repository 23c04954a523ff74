"""Walks through the latent of an autoencoder: along each of its axes, and from one point to another."""

from __future__ import annotations

import torch
from torch import Tensor

USED = 0.01
"""Least variance of the encoder's mean along an axis that is in use (Burda et al. 2016, section 5.2)."""


def by_use(activity: Tensor) -> Tensor:
    """Returns the numbers of the axes `[A]`, the one in most use first, from the variance of the means along each."""
    return torch.argsort(activity, descending=True, stable=True)


def walks_along_axes(middle: Tensor, spread: Tensor, axes: Tensor, grid: Tensor) -> Tensor:
    """Returns points on axes through a point of the latent.

    Args:
        middle: `[L]`, or `[L, …]` for a latent of which each axis has several numbers, which are moved together.
        spread: `[L]`, the unit of length of each axis.
        axes: `[A]`, numbers of the axes to walk along.
        grid: `[S]`, distances from the point.

    Returns:
        `[A, S, L, …]`.
    """
    points = middle.expand(len(axes), len(grid), *middle.shape).clone()
    for row, axis in enumerate(axes):
        steps = grid * spread[axis]
        points[row, :, axis] += steps.reshape(-1, *[1] * (middle.ndim - 1))
    return points


def straight_line(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """Returns points between two points `[L, …]` of the latent at shares `[S]` of the way: `[S, L, …]`."""
    return torch.lerp(first, second, shares.reshape(-1, *[1] * first.ndim))
