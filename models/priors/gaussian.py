"""Gaussian priors: pooled over a group of layers, or centred on what the source has at each position."""

from __future__ import annotations

import torch
from torch import Tensor

from data.errors import ModelError
from models.factorised_normal import FactorisedNormal
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.layer_scales import LayerScales
from models.priors.position_gaussian import PositionGaussian
from models.priors.prior import FilterPrior, FitReport, Progress, find_positions, require_positions
from models.priors.standardisation import Standardisation, expected_normal
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
            self.position = PositionGaussian(kernel_voxels, scaled=options.centre is Centre.BRANCHES)
        # Learned on the target alone, so they are no part of what is saved.
        self.scales = LayerScales()

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter."""
        return self.at_positions().kernel_voxels if self.pooled is None else self.pooled.kernel_voxels

    @property
    def needs_positions(self) -> bool:
        """Whether the density depends on where a filter sits."""
        blind = self.pooled is not None and not self.pooled.needs_positions
        return not blind or bool(self.scales)

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        options = self.options
        used = bank
        if self.pooled is not None:
            self.pooled.fit(bank, options.covariance, options.rank, options.scaling, options.zero_mean)
        elif self.position is not None:
            if options.centre is Centre.BRANCHES:
                used = bank.branches()
            elif options.network is not None:
                used = bank.of_network(options.network)
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
            raise ModelError("a pooled Gaussian has no positions", expected="centre: source_position or branches")
        return self.position

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        if self.pooled is None:
            positions = require_positions(where)
            return self.at_positions().log_prob(filters, positions, self.scales.log_factors(positions))
        log_factors = self.scales.log_factors(where)
        if log_factors is None:
            return self.pooled.log_normal(filters, where)
        centres = self.pooled.centres(len(filters), where)
        unscaled = centres + (filters - centres) * torch.exp(-log_factors)[:, None]
        return self.pooled.log_normal(unscaled, where) - self.kernel_voxels * log_factors

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
        log_factors = self.scales.log_factors(where)
        if self.pooled is None:
            precisions = self.at_positions().precisions(require_positions(where), log_factors)
        else:
            precisions = self.pooled.precisions(where)
            if log_factors is not None:
                precisions = precisions * torch.exp(-2 * log_factors)[:, None]
        return expected_normal(at_means, precisions, normal)

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        log_factors = self.scales.log_factors(where)
        if self.pooled is None:
            return self.at_positions().sample(require_positions(where), generator, log_factors)
        noise = standard_normal((count, self.kernel_voxels), self.pooled.mean, generator)
        drawn = self.pooled.inverse(noise, where)
        if log_factors is None:
            return drawn
        centres = self.pooled.centres(count, where)
        return centres + (drawn - centres) * log_factors.exp()[:, None]

    def learn_layer_scales(self, where: FilterPositions, weight: float) -> None:
        """Gives each layer a factor on its deviations from the centre; see `LayerScales`."""
        known = self._has_centre(where)
        self.scales.begin(where[torch.nonzero(known).squeeze(1)], weight, self.kernel_voxels)

    @torch.no_grad()
    def settle_layer_scales(self, draw: Tensor, normal: FactorisedNormal | None, where: FilterPositions) -> None:
        """Sets the factor of each layer to the most probable one, in closed form."""
        if not self.scales:
            return
        # E_q log p = log p(centre) − ½ E_q (w − centre)ᵀ Σ⁻¹ (w − centre) with all factors 1.
        self.scales.forget()
        centres = self.at_positions().centres(where) if self.pooled is None else self.pooled.centres(len(draw), where)
        squares = 2 * (self.log_prob(centres, where) - self.expected_log_prob(draw, normal, where))
        known = torch.nonzero(self._has_centre(where)).squeeze(1)
        self.scales.settle(squares[known], where[known])

    def layer_scales(self) -> dict[int, float]:
        """Returns number of the layer → its factor."""
        return self.scales.by_layer()

    def hyperprior_log_prob(self) -> Tensor:
        """Returns the log density of the factors of the layers, up to a constant, a scalar in nats."""
        return self.scales.log_prob().to(self.fitted.device)

    def _has_centre(self, where: FilterPositions) -> Tensor:
        """Whether there is a centre at each position, `[F]`; positions without one are drawn from a pooled Gaussian."""
        if self.position is None:
            return torch.ones(len(where), dtype=torch.bool, device=self.fitted.device)
        return find_positions(self.position.keys, where)[1]
