"""Reuse-or-redraw: a filter is either the source's own at this position, or a new draw from the density of shapes.

log p(w) = log[ π N(w; w_source, s²) + (1 − π) p_shape(w) ], with π and a factor on s per layer. Both may be learned on
the target (empirical Bayes). A posterior with mean w_source and deviation s has a KL near zero for every s, so s is
held by a log-normal hyperprior around its value from the variance between snapshots. The hyperprior is one term per
layer against the sum over its filters and cannot hold s alone: s itself, factor included, has a floor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.options import Options
from models.filter_bank import FilterBank
from models.filters import KERNEL_VOXELS, FilterPositions
from models.priors.gaussian import Gaussian
from models.priors.gaussian_mixture import GaussianMixtureOptions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import (
    FilterPrior,
    FitReport,
    Progress,
    check_known_layers,
    require_positions,
)
from models.priors.spike_and_slab import SpikeAndSlab, SpikeAndSlabOptions, build_slab
from models.priors.standardisation import Covariance
from models.priors.vae_options import FilterVAEOptions

ShapeOptions = Annotated[
    GaussianOptions | GaussianMixtureOptions | FilterVAEOptions | SpikeAndSlabOptions,
    Field(discriminator="kind", description="p_shape"),
]


class ReuseOrRedrawOptions(Options):
    """Settings of the reuse-or-redraw prior."""

    kind: Literal["reuse_or_redraw"] = "reuse_or_redraw"
    position: GaussianOptions = Field(
        default=GaussianOptions(centre=Centre.SOURCE_POSITION, covariance=Covariance.ISOTROPIC),
        description="The density around the source's filter; its std_floor keeps s, even a learned one, from "
        "shrinking to zero.",
    )
    shape: ShapeOptions = Field(default=FilterVAEOptions(), description="The density of shapes, blind to position.")
    reuse: float = Field(default=0.5, gt=0, lt=1, description="Probability π that a filter is reused.")
    learn: bool = Field(default=False, description="Learn π and the factor on s of each layer on the target.")
    reuse_deviation: float = Field(
        default=1.0, gt=0, description="Standard deviation of the normal hyperprior on logit π."
    )
    spread_deviation: float = Field(
        default=0.5, gt=0, description="Standard deviation of the normal hyperprior on the log of the factor on s."
    )


def build_shape(options: ShapeOptions, kernel_voxels: int) -> FilterPrior:
    """Builds a density that is blind to position; it is not fitted yet."""
    if isinstance(options, SpikeAndSlabOptions):
        return SpikeAndSlab(options, kernel_voxels)
    return build_slab(options, kernel_voxels)


class ReuseOrRedraw(FilterPrior):
    """Mixture of a source-centred Gaussian and a density of shapes."""

    options: ReuseOrRedrawOptions
    layer_ids: Tensor
    least_std: Tensor

    def __init__(self, options: ReuseOrRedrawOptions, kernel_voxels: int = KERNEL_VOXELS) -> None:
        super().__init__(options)
        position = options.position.model_copy(update={"centre": Centre.SOURCE_POSITION})
        self.position = Gaussian(position, kernel_voxels)
        self.shape = build_shape(options.shape, kernel_voxels)
        self.register_buffer("layer_ids", torch.zeros(0, dtype=torch.int64))
        # The floor of s by layer; follows from the centres, so it is not saved.
        self.register_buffer("least_std", torch.zeros(0), persistent=False)
        self._build(0)

    def _build(self, layers: int) -> None:
        prior_logit = math.log(self.options.reuse / (1 - self.options.reuse))
        self.reuse_logit = nn.Parameter(torch.full((layers,), prior_logit))
        self.log_spread = nn.Parameter(torch.zeros(layers))

    @property
    def kernel_voxels(self) -> int:
        """Numbers per filter, the same for both densities."""
        return self.position.kernel_voxels

    @property
    def is_bound(self) -> bool:
        """Whether the density of shapes is a bound."""
        return self.shape.is_bound

    @property
    def needs_positions(self) -> bool:
        """True: the source's filter at the position is part of the density."""
        return True

    def free_parameters(self) -> int:
        """Returns the parameters of both densities, and π of each layer."""
        return self.position.free_parameters() + self.shape.free_parameters() + len(self.layer_ids)

    def variational_parameters(self) -> list[nn.Parameter]:
        """Returns ψ of the shape's encoder and, if they are learned, π and the factor on s of each layer."""
        learned = [self.reuse_logit, self.log_spread] if self.options.learn else []
        return [*self.shape.variational_parameters(), *learned]

    def hyperprior_log_prob(self) -> Tensor:
        """Returns the log density of logit π and log s of all layers, a scalar in nats; 0 if they are not learned."""
        if not self.options.learn:
            return self.shape.hyperprior_log_prob()
        options = self.options
        centre = math.log(options.reuse / (1 - options.reuse))
        total = torch.zeros((), dtype=self.log_spread.dtype, device=self.log_spread.device)
        for values, mean, deviation in (
            (self.reuse_logit, centre, options.reuse_deviation),
            (self.log_spread, 0.0, options.spread_deviation),
        ):
            squares = ((values - mean) / deviation).square()
            total = total - 0.5 * (squares + math.log(2 * math.pi * deviation**2)).sum()
        return total + self.shape.hyperprior_log_prob()

    def fit_parts(
        self,
        of_network: FilterBank,
        pooled: FilterBank,
        generator: torch.Generator | None = None,
        progress: Progress | None = None,
    ) -> FitReport:
        """Fits both densities, each to its own bank.

        Args:
            of_network: all filters of the source network that is reused; positions that it lacks would get a pooled
                density.
            pooled: filters of the group, of any networks, for the density of shapes.
            generator: source of all randomness.
            progress: called during the fit.

        Raises:
            ModelError: if a bank has another kernel size, is empty, or holds numbers that are not finite.
        """
        device, dtype = self.fitted.device, self.log_spread.dtype
        self.position.fit(of_network, generator)
        report = self.shape.fit(pooled, generator, progress)
        self.layer_ids = torch.unique(of_network.layer).to(device)
        self._build(len(self.layer_ids))
        self.to(device=device, dtype=dtype)
        self._set_floor()
        with torch.no_grad():
            scores = self._log_prob(of_network.filters.to(device, dtype), of_network.positions, 1, generator)
        self.fitted.fill_(True)
        return replace(report, log_density=float(scores.double().mean()))

    def _fit(self, bank: FilterBank, generator: torch.Generator | None, progress: Progress | None) -> FitReport:
        network = self.options.position.network
        return self.fit_parts(bank if network is None else bank.of_network(network), bank, generator, progress)

    def _log_prob(
        self, filters: Tensor, where: FilterPositions | None, samples: int, generator: torch.Generator | None
    ) -> Tensor:
        reused, redrawn = self._parts(filters, require_positions(where), samples, generator)
        return torch.logaddexp(reused, redrawn)

    def _parts(
        self, filters: Tensor, where: FilterPositions, samples: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        rows = check_known_layers(self.layer_ids, where)
        logit = self.reuse_logit[rows]
        log_reuse, log_redraw = nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)
        reused = self.position.at_positions().log_prob(filters, where, self._held_log_spread(rows, where))
        return log_reuse + reused, log_redraw + self.shape.log_estimate(filters, where, samples, generator)

    def _held_log_spread(self, rows: Tensor, where: FilterPositions) -> Tensor:
        """Returns the log of the factor on s for each filter, `[F]`, held where s would fall below its floor."""
        log_spread = self.log_spread[rows]
        if not self.options.learn:
            return log_spread
        least = torch.log(self.least_std[rows] / self.position.at_positions().least_stds(where))
        return torch.maximum(log_spread, least.clamp_max(0.0))

    def _set_floor(self) -> None:
        self.least_std = self.options.position.std_floor * self.position.at_positions().layer_root_mean_squares(
            self.layer_ids
        )

    def _sample(self, count: int, where: FilterPositions | None, generator: torch.Generator | None) -> Tensor:
        positions = require_positions(where)
        rows = check_known_layers(self.layer_ids, positions)
        device = self.log_spread.device if generator is None else generator.device
        uniform = torch.rand(count, generator=generator, device=device).to(self.log_spread.device)
        with torch.no_grad():
            log_spread = self._held_log_spread(rows, positions)
            reused = self.position.at_positions().sample(positions, generator, log_spread)
            redrawn = self.shape.sample(positions, generator)
            return torch.where((uniform < torch.sigmoid(self.reuse_logit[rows]))[:, None], reused, redrawn)

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state dict; sizes that were learned from the bank are taken from it.

        Raises:
            ModelError: if the state does not belong to these options.
        """
        super().take_state(state)
        self._set_floor()

    def _prepare_for_state(self, state: Mapping[str, Tensor]) -> None:
        if "layer_ids" in state:
            self._build(len(state["layer_ids"]))
        self._prepare_part("shape", state)
