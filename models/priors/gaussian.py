"""Gaussian priors: pooled over a group of layers, or centred on the filter that the source has at each position."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data.errors import ModelError
from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.position_gaussian import PositionGaussian
from models.priors.prior import FilterPrior, FitReport, Progress, require_positions
from models.priors.standardisation import Standardisation
from models.random_draws import standard_normal


class Gaussian(FilterPrior):
    """A Gaussian over filters, exact in closed form."""

    options: GaussianOptions

    def __init__(self, options: GaussianOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options)
        self.pooled: Standardisation | None = None
        self.position: PositionGaussian | None = None
        if options.centre is Centre.POOLED:
            self.pooled = Standardisation(kernel_voxels)
        else:
            self.position = PositionGaussian(kernel_voxels)

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter."""
        return self.at_positions().kernel_voxels if self.pooled is None else self.pooled.kernel_voxels

    @property
    def needs_positions(self) -> bool:
        """Whether the density depends on where a filter sits."""
        return self.position is not None or (self.pooled is not None and self.pooled.needs_positions)

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        options = self.options
        used = bank
        if self.pooled is not None:
            self.pooled.fit(bank, options.covariance, options.rank, options.scaling, options.zero_mean)
        elif self.position is not None:
            used = bank if options.network is None else bank.of_network(options.network)
            self.position.fit(used, options)
        filters = used.filters.to(self.fitted.device, self._dtype())
        with torch.no_grad():
            log_density = float(self._log_prob(filters, used.positions, 1, None).double().mean())
        return FitReport(len(bank), len(used), steps=0, log_density=log_density)

    def free_parameters(self) -> int:
        """Returns the numbers that define mean and covariance (of every position, for a position prior)."""
        if self.pooled is not None:
            free = self.pooled.free_parameters(self.options.covariance, self.options.rank)
            return free - self.kernel_voxels if self.options.zero_mean else free
        return self.at_positions().free_parameters()

    def _dtype(self) -> torch.dtype:
        return self.pooled.mean.dtype if self.pooled is not None else self.at_positions().means.dtype

    def at_positions(self) -> PositionGaussian:
        """Returns the Gaussians of the positions.

        Raises:
            ModelError: if the prior is a pooled one.
        """
        if self.position is None:
            raise ModelError("a pooled Gaussian has no positions", expected="centre: source_position")
        return self.position

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        if self.pooled is None:
            return self.at_positions().log_prob(filters, require_positions(where))
        standardised, log_jacobian = self.pooled(filters, where)
        return -0.5 * (standardised.square() + math.log(2 * math.pi)).sum(1) + log_jacobian

    def expected_log_prob(
        self,
        draw: Tensor,
        normal: FactorisedNormal | None = None,
        where: FilterPositions | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns log p(μ) − ½ Σ_i (Σ⁻¹)_ii σ_i², `[F]`, exact for normals N(μ, diag σ²); else log p of the draw."""
        if normal is None:
            return self.log_prob(draw, where)
        at_means = self.log_prob(normal.means, where)
        if self.pooled is None:
            precisions = self.at_positions().precisions(require_positions(where))
        else:
            precisions = self.pooled.precisions(where)
        return at_means - 0.5 * (precisions * normal.log_variances.exp()).sum(1)

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        if self.pooled is None:
            return self.at_positions().sample(require_positions(where), generator, None)
        noise = standard_normal((count, self.kernel_voxels), self.pooled.mean, generator)
        return self.pooled.inverse(noise, where)
