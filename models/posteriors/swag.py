"""SWAG: a Gaussian fitted to the iterates of a training (Maddox et al., NeurIPS 2019)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from data.errors import ModelError
from data.options import Options
from models.posteriors.posterior import Posterior
from models.random_draws import standard_normal


class SWAGOptions(Options):
    """Settings of a SWAG posterior."""

    kind: Literal["swag"] = "swag"
    rank: int = Field(default=10, ge=2, description="Last iterates that span the low-rank part of the covariance.")
    scale: float = Field(
        default=1.0,
        ge=0,
        description="Factor on the covariance; 1 is the published one, 0 leaves only the mean of the iterates (SWA).",
    )
    collect_from: float = Field(default=0.5, ge=0, lt=1, description="Share of the training after which to collect.")
    collections: int = Field(default=20, ge=2, description="Number of iterates to collect.")
    rate: float = Field(
        default=1.0, gt=0, description="Constant learning rate of the collection, as a share of the arm's peak rate."
    )


def first_collected(options: SWAGOptions, steps: int) -> int:
    """Returns the first step (from 0) of a training after which iterates are collected."""
    return int(options.collect_from * steps)


class SWAG(Posterior):
    """Gaussian with the mean, the variances and the last deviations of the iterates of a point estimate.

    Train a `Point`, call `collect` with its filters at intervals, and draw from this instead.

    Args:
        count: filters, F.
        rank: iterates kept as deviations.
        scale: factor on the covariance; with 0 only the mean of the iterates is left (stochastic weight averaging,
            Izmailov et al. 2018).
        kernel_voxels: numbers per filter.
    """

    first_moment: Tensor
    second_moment: Tensor
    deviations: Tensor
    collected: Tensor

    def __init__(self, count: int, rank: int = 10, scale: float = 1.0, kernel_voxels: int = 27) -> None:
        super().__init__()
        self.rank = rank
        self.scale = scale
        self.register_buffer("first_moment", torch.zeros(count, kernel_voxels))
        self.register_buffer("second_moment", torch.zeros(count, kernel_voxels))
        self.register_buffer("deviations", torch.zeros(rank, count, kernel_voxels))
        self.register_buffer("collected", torch.zeros((), dtype=torch.int64))

    @property
    def count(self) -> int:
        """Number of filters, F."""
        return len(self.first_moment)

    @property
    def has_density(self) -> bool:
        """Whether there is any spread."""
        return self.scale > 0

    @torch.no_grad()
    def collect(self, filters: Tensor) -> None:
        """Adds one iterate, `[F, 27]`, to the moments."""
        if filters.shape != self.first_moment.shape:
            raise ModelError(
                f"an iterate of shape {tuple(filters.shape)}", expected=f"{tuple(self.first_moment.shape)}"
            )
        number = int(self.collected)
        delta = filters - self.first_moment
        self.first_moment += delta / (number + 1)
        # Welford's update of the sum of squares about the mean: E[w²] − E[w]² cancels in float32.
        self.second_moment += delta * (filters - self.first_moment)
        self.deviations[number % self.rank] = filters - self.first_moment
        self.collected += 1

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Returns the diagonal variances `[F, 27]` and the factor `[R, F, 27]` of the covariance."""
        number = int(self.collected)
        if number < 2:
            raise ModelError(
                f"SWAG has collected {number} iterates",
                expected="two or more",
                fix="train longer or raise 'collections'",
            )
        variance = (self.second_moment / number).clamp_min(1e-30)
        used = min(number, self.rank)
        factor = self.deviations[:used] / math.sqrt(2 * (used - 1))
        return 0.5 * self.scale * variance, math.sqrt(self.scale) * factor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws all filters jointly, `[F, 27]`: the low-rank part moves the whole network together."""
        variance, factor = self._parts()
        noise = standard_normal(variance.shape, variance, generator)
        weights = standard_normal((len(factor),), variance, generator)
        return self.first_moment + variance.sqrt() * noise + torch.tensordot(weights, factor, dims=1)

    def mean(self) -> Tensor:
        """Returns the mean of the iterates, `[F, 27]`."""
        return self.first_moment

    def _marginals(self) -> torch.distributions.LowRankMultivariateNormal:
        variance, factor = self._parts()
        return torch.distributions.LowRankMultivariateNormal(
            self.first_moment, factor.permute(1, 2, 0), variance, validate_args=False
        )

    def entropy_per_filter(self) -> Tensor:
        """Returns the entropy of each filter's marginal, `[F]`; their sum bounds the joint entropy from above."""
        return self._marginals().entropy()

    def log_prob(self, filters: Tensor) -> Tensor:
        """Returns the log density of each filter under its marginal, `[F]`."""
        return self._marginals().log_prob(filters)
