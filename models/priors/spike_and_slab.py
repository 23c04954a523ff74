"""Spike and slab: a filter is dead, close to zero, or alive and drawn from a density that was fitted to the living.

log p(w) = log[ π N(w; 0, s²) + (1 − π) p_slab(w) ]. Decay leaves many filters of a trained network close to zero. A
norm threshold leaves them out of the other densities, which then give them next to no probability; here they are a
part of the density, so that scores of all filters can be compared, and a target network may have dead filters as
well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.options import Options
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.filter_vae import FilterVAE
from models.priors.gaussian import Gaussian
from models.priors.gaussian_mixture import GaussianMixture, GaussianMixtureOptions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import FilterPrior, FitReport, Progress
from models.priors.vae_options import FilterVAEOptions
from models.random_draws import standard_normal

NORM_THRESHOLD = 0.01
"""L2 norm up to which a filter is dead, in the codes of the papers."""
_SCORED_AT_A_TIME = 32_768

SlabOptions = Annotated[
    GaussianOptions | GaussianMixtureOptions | FilterVAEOptions, Field(discriminator="kind", description="p_slab")
]


class SpikeAndSlabOptions(Options):
    """Settings of the spike-and-slab prior. It is fitted to all filters, also those under the norm threshold."""

    kind: Literal["spike_and_slab"] = "spike_and_slab"
    slab: SlabOptions = Field(default=GaussianOptions(), description="The density of living filters.")
    norm_threshold: float | None = Field(
        default=None,
        ge=0,
        description="Filters with this L2 norm or less are dead; none: `filters.norm_threshold`, or 0.01 outside of a "
        "study.",
    )
    std_floor: float = Field(
        default=0.01,
        gt=0,
        description="Smallest standard deviation of the spike, as a share of the living filters' root mean square: "
        "filters that are exactly zero would give it an infinite density.",
    )

    @model_validator(mode="after")
    def _slab_is_pooled(self) -> Self:
        if isinstance(self.slab, GaussianOptions) and self.slab.centre is not Centre.POOLED:
            raise ValueError("the slab is a density of all living filters: set its centre to pooled")
        return self


def build_slab(options: SlabOptions, kernel_voxels: int) -> FilterPrior:
    """Builds a density that is no mixture with another one; it is not fitted yet."""
    if isinstance(options, FilterVAEOptions):
        return FilterVAE(options, kernel_voxels)
    if isinstance(options, GaussianMixtureOptions):
        return GaussianMixture(options, kernel_voxels)
    return Gaussian(options, kernel_voxels)


class SpikeAndSlab(FilterPrior):
    """Mixture of an isotropic Gaussian around zero and a density of living filters."""

    options: SpikeAndSlabOptions
    logit_dead: Tensor
    log_std: Tensor

    def __init__(self, options: SpikeAndSlabOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options)
        self.slab = build_slab(options.slab, kernel_voxels)
        self.register_buffer("logit_dead", torch.zeros(()))
        self.register_buffer("log_std", torch.zeros(()))

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter, those of the slab."""
        return self.slab.kernel_voxels

    @property
    def is_bound(self) -> bool:
        """Whether the density of living filters is a bound."""
        return self.slab.is_bound

    @property
    def needs_positions(self) -> bool:
        """Whether the density of living filters depends on positions."""
        return self.slab.needs_positions

    def free_parameters(self) -> int:
        """Returns those of the slab, π, and s."""
        return self.slab.free_parameters() + 2

    def variational_parameters(self) -> list[nn.Parameter]:
        """Returns those of the slab."""
        return self.slab.variational_parameters()

    def hyperprior_log_prob(self) -> Tensor:
        """Returns that of the slab."""
        return self.slab.hyperprior_log_prob()

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        threshold = NORM_THRESHOLD if self.options.norm_threshold is None else self.options.norm_threshold
        living = bank.above_norm(threshold)
        dead = bank.filters[bank.filters.norm(dim=1) <= threshold].double()
        report = self.slab.fit(living, generator, progress)
        floor = self.options.std_floor * living.filters.double().square().mean().sqrt()
        std = torch.maximum(dead.square().mean().sqrt(), floor) if len(dead) else floor
        self.log_std.fill_(float(std.log()))
        # As if one more of each had been seen: a group without dead filters does not exclude them.
        self.logit_dead.fill_(math.log((len(dead) + 1) / (len(living) + 1)))
        parts = [bank[start : start + _SCORED_AT_A_TIME] for start in range(0, len(bank), _SCORED_AT_A_TIME)]
        with torch.no_grad():
            scores = [
                self._log_prob(part.filters.to(self.log_std), part.positions, 1, generator).double() for part in parts
            ]
        return replace(
            report,
            filters_given=len(bank),
            filters_used=report.filters_used + len(dead),
            log_density=float(torch.cat(scores).mean()),
        )

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        constant = self.log_std + 0.5 * math.log(2 * math.pi)
        spike = -(0.5 * (filters * torch.exp(-self.log_std)).square() + constant).sum(1)
        slab = self.slab.log_estimate(filters, where, samples, generator)
        log_dead, log_living = nn.functional.logsigmoid(self.logit_dead), nn.functional.logsigmoid(-self.logit_dead)
        return torch.logaddexp(log_dead + spike, log_living + slab)

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        device = self.log_std.device if generator is None else generator.device
        dead = torch.rand(count, generator=generator, device=device).to(self.log_std.device) < self.logit_dead.sigmoid()
        spike = self.log_std.exp() * standard_normal((count, self.kernel_voxels), self.log_std, generator)
        slab = self.slab.sample(count if where is None else where, generator)
        return torch.where(dead[:, None], spike, slab)

    def _prepare_for_state(self, state: Mapping[str, Tensor]) -> None:
        self._prepare_part("slab", state)
