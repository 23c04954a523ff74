"""Walks through the latent of a filter VAE, decoded: along each of its axes, and from one filter to another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.filter_bank import FilterBank
from models.filters import FilterPositions
from models.latent_walks import USED, by_use, straight_line, walks_along_axes
from models.priors.filter_vae import FilterVAE
from pipeline.report.filter_files import Filters, sample_rows


@dataclass(frozen=True)
class Traversal:
    """Decoded filters along the axes of the latent, the axis in most use first.

    Attributes:
        steps: `[S]`, distances from the mean of the aggregate posterior, in its standard deviations.
        axes: `[A]`, numbers of the axes.
        activity: `[A]`, variance of the encoder's mean along each over the filters.
        filters: `[A, S, 27]`, means of the decoder, raw weights.
        explained: share of the variance of filters that encoding and decoding by the means keeps.
    """

    steps: NDArray[np.float64]
    axes: NDArray[np.int64]
    activity: NDArray[np.float64]
    filters: Filters
    explained: float

    @property
    def used(self) -> int:
        """Number of axes in use."""
        return int((self.activity > USED).sum())


@dataclass(frozen=True)
class Interpolation:
    """The way from one filter to another through the latent.

    Attributes:
        shares: `[S]`, from 0 to 1.
        ends: `[2, 27]`, the two filters themselves.
        filters: `[S, 27]`, means of the decoder on the straight line between their encodings.
    """

    shares: NDArray[np.float64]
    ends: Filters
    filters: Filters


def main_layer(bank: FilterBank) -> FilterBank:
    """Returns the filters of the layer that has most of them: one layer for a decoder that asks which."""
    numbers, counts = torch.unique(bank.layer, return_counts=True)
    return bank[bank.layer == numbers[counts.argmax()]]


@torch.no_grad()
def traverse(prior: FilterVAE, bank: FilterBank, steps: int = 5, reach: float = 2.0) -> Traversal:
    """Decodes points on every axis of the latent, the others held at the mean of the aggregate posterior.

    The aggregate posterior (1/F) Σ r(z|w_f) is described by its mean and its standard deviation along each axis.

    Args:
        prior: a fitted VAE.
        bank: filters whose encodings make the aggregate posterior; those of the largest layer say where to decode.
        steps: points on each axis.
        reach: distance of the outermost points, in standard deviations.
    """
    filters = _as_prior(prior, bank.filters)
    means, log_variances = prior.encode(filters, bank.positions)
    residual = (filters - prior.decode(means, bank.positions)).square().sum()
    explained = 1 - float(residual / (filters - filters.mean(0)).square().sum())
    middle, activity = means.mean(0), means.var(0, correction=0)
    spread = (activity + log_variances.exp().mean(0)).sqrt()
    grid = torch.linspace(-reach, reach, steps, dtype=means.dtype)
    order = by_use(activity)
    flat = walks_along_axes(middle, spread, order, grid).flatten(0, 1)
    decoded = prior.decode(flat, _repeated(main_layer(bank).positions[:1], len(flat)))
    walks = decoded.reshape(len(order), steps, -1).float().numpy()
    return Traversal(grid.double().numpy(), order.numpy(), activity[order].double().numpy(), walks, explained)


@torch.no_grad()
def interpolate(prior: FilterVAE, ends: FilterBank, steps: int = 5) -> Interpolation:
    """Decodes the straight line between the mean encodings of two filters, at the position of the first.

    Args:
        prior: a fitted VAE.
        ends: the two filters.
        steps: points on the line, its ends among them.
    """
    means, _ = prior.encode(_as_prior(prior, ends.filters), ends.positions)
    shares = torch.linspace(0, 1, steps, dtype=means.dtype)
    latents = straight_line(means[0], means[1], shares)
    decoded = prior.decode(latents, _repeated(ends.positions[:1], steps))
    return Interpolation(shares.double().numpy(), ends.filters.float().numpy(), decoded.float().numpy())


def draw_pairs(bank: FilterBank, count: int, seed: int, group: str) -> list[FilterBank]:
    """Draws pairs of filters of the largest layer, from the larger half by norm: small ones show little.

    Returns:
        Banks of two filters each; fewer than asked for where the layer is small.
    """
    layer = main_layer(bank)
    large = layer[torch.argsort(layer.filters.norm(dim=1), descending=True)[: (len(layer) + 1) // 2]]
    rows = sample_rows(len(large), 2 * count, seed, "interpolation", group)
    return [large[torch.from_numpy(rows[i : i + 2])] for i in range(0, len(rows) - 1, 2)]


def _as_prior(prior: FilterVAE, filters: Tensor) -> Tensor:
    return filters.to(prior.standardisation.mean.dtype)


def _repeated(where: FilterPositions, count: int) -> FilterPositions:
    return FilterPositions(*(column.repeat(count) for column in (where.layer, where.out_index, where.in_index)))
