"""The prior term of the objective: (T / N_vox) Σ [ −H(q) − E_q log p(w) ] over filters and other weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork, WeightDraw
from models.objectives import FilterGroups, bound_gap, kl_term, thinning
from models.other_weights import WeightLayout
from models.posteriors.mixture import Mixture
from models.posteriors.posterior import Posterior
from models.prior_region import PriorRegion
from models.priors.prior import FilterPrior
from models.weight_gaussian import WeightGaussian
from pipeline.arms.choices import ArmOptions, LayerScale

_GAP_FILTERS = 256
"""Filters of each group on which the gap of the bound is estimated."""
_SETTLED_EVERY = 10
"""Steps between two settlings of the scales of layers, which look at all filters; they move slowly."""


@dataclass(frozen=True)
class WeightPriors:
    """The prior p(w).

    Attributes:
        fitted: group → density over filters.
        groups: rows and positions of these groups among the learned filters.
        filters: for `l2` and `l2_sp`, the density of the filters, one for each component of the posterior.
        others: the densities of the other learned weights, one for each component; empty where they have none.
        other_layout: of these weights.
    """

    fitted: Mapping[str, FilterPrior]
    groups: FilterGroups
    filters: Sequence[WeightGaussian] = ()
    others: Sequence[WeightGaussian] = ()
    other_layout: WeightLayout = field(default_factory=lambda: WeightLayout((), ()))

    def __bool__(self) -> bool:
        return bool(self.fitted or self.filters or self.others)

    def to(self, device: str) -> WeightPriors:
        """Returns the densities on another device."""
        return WeightPriors(
            {name: prior.to(device) for name, prior in self.fitted.items()},
            self.groups.to(device),
            [prior.to(device) for prior in self.filters],
            [prior.to(device) for prior in self.others],
            self.other_layout,
        )


@dataclass(frozen=True)
class PriorTerm:
    """Computes the prior term of a step.

    Attributes:
        arm: temperature, samples, share, warm-up.
        priors: p(w).
        voxels: N_vox.
        steps: of the training, for the warm-up.
        seed: of the draws that are only logged, so that logging does not change the training.
    """

    arm: ArmOptions
    priors: WeightPriors
    voxels: int
    steps: int
    seed: int
    _regions: dict[str, PriorRegion] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # At the start, because densities that are learned on the target would follow the filters.
        self._regions.update({name: self._region(name) for name in self.priors.fitted})

    def _region(self, name: str) -> PriorRegion:
        rows, where = self.priors.groups.rows[name], self.priors.groups.positions[name]
        generator = torch.Generator(rows.device).manual_seed(stream_seed(self.seed, "prior-region", name))
        return PriorRegion.of(self.priors.fitted[name], rows, where, self.arm.prior_samples, generator)

    def weight(self, step: int) -> float:
        """Share of T at a step; rises linearly over the warm-up."""
        warm_up = self.arm.kl_warm_up * self.steps
        return min((step + 1) / warm_up, 1.0) if warm_up > 0 else 1.0

    def kl(
        self,
        model: BayesianNetwork,
        draw: WeightDraw,
        generator: torch.Generator,
        share: float | None = None,
        terms: dict[str, float] | None = None,
        posterior: Posterior | None = None,
    ) -> Tensor:
        """Estimates KL(q ‖ p), a scalar in nats, from one draw; for a point estimate it is −log p(w).

        Args:
            model: network and posterior.
            draw: of its weights.
            generator: source of the subset and the latents.
            share: of the filters that are evaluated; by default the arm's.
            terms: receives the nats of every group.
            posterior: q over the filters; by default the model's, whose entropy is the repulsive one while a mixture is
                trained.
        """
        own = model.posterior if posterior is None else posterior
        beside = self._beside(model, draw)
        total = torch.zeros((), device=draw.filters.device)
        if self.priors.fitted:
            divergence = kl_term(
                own,
                self.priors.fitted,
                self.priors.groups,
                draw.filters,
                beside,
                samples=self.arm.prior_samples,
                share=self.arm.filter_share if share is None else share,
                generator=generator,
            )
            total = total + divergence.kl
            if terms is not None:
                terms |= {f"kl_nats_{name}": float(nats) for name, nats in divergence.kl_per_group.items()}
        if self.priors.filters:
            expected = self.priors.filters[draw.component].expected_log_prob(own, draw.filters)
            nats = -own.entropy_term(draw.filters, beside).sum() - expected.sum()
            total = total + nats
            if terms is not None:
                terms["kl_nats_filters"] = float(nats.detach())
        if self.priors.others:
            nats = self._other_kl(model, draw)
            total = total + nats
            if terms is not None:
                terms["kl_nats_other"] = float(nats.detach())
        return total

    def settle(self, posterior: Posterior, step: int) -> None:
        """Gives the layers of priors with learned scales those that the posterior speaks for, at every tenth step."""
        if self.arm.layer_scale is LayerScale.FIXED or step % _SETTLED_EVERY:
            return
        means, normal = posterior.mean().detach(), posterior.normal()
        for name, prior in self.priors.fitted.items():
            rows = self.priors.groups.rows[name]
            own = None if normal is None else normal.rows(rows)
            prior.settle_layer_scales(means[rows], own, self.priors.groups.positions[name])

    def thinning(self, draws: int) -> Tensor:
        """Factor by which the squared gradient of the KL of a step with this many draws is too large, `[F]`."""
        return thinning(self.priors.groups, self.priors.fitted, self.arm.filter_share, draws)

    def scaled(self, kl: Tensor, step: int) -> Tensor:
        """Returns (T / N_vox) · KL with the weight of the step, nats per voxel."""
        return self.arm.posterior_temperature * self.weight(step) / self.voxels * kl

    def _other_kl(self, model: BayesianNetwork, draw: WeightDraw) -> Tensor:
        prior = self.priors.others[draw.component]
        if model.others is None or draw.others is None:
            own = dict(model.network.named_parameters())
            column = torch.cat([own[name].reshape(-1, 1) for name in self.priors.other_layout.names])
            return -prior.log_prob(column).sum()
        posterior = model.others.posterior(draw.component)
        entropy = posterior.entropy_per_filter().sum()
        return -entropy - prior.expected_log_prob(posterior, draw.others).sum()

    def _beside(self, model: BayesianNetwork, draw: WeightDraw) -> Tensor | None:
        if model.others is None or draw.others is None or not isinstance(model.posterior, Mixture):
            return None
        return model.others.log_probs(draw.others)

    def outside(self, posterior: Posterior, step: int) -> dict[str, float]:
        """Share of the filters of each group whose mean is less likely than 99 % of the draws from the prior."""
        means = posterior.mean().detach()
        generator = torch.Generator(means.device).manual_seed(stream_seed(self.seed, "outside", step))
        regions = self._regions
        if self.arm.layer_scale is LayerScale.LEARNED:
            # Densities are in nats: where a prior becomes wider, those of its draws fall.
            regions = {name: self._region(name) for name in regions}
        return {f"left_prior_{name}": own.share_outside(means, generator) for name, own in regions.items()}

    def gaps(self, draw: WeightDraw, step: int) -> dict[str, float]:
        """Estimates the gap in nats per filter between the density of each group and its K-sample bound."""
        found = {}
        for name, prior in self.priors.fitted.items():
            if not prior.is_bound:
                continue
            device = draw.filters.device
            generator = torch.Generator(device).manual_seed(stream_seed(self.seed, "bound-gap", step))
            rows, positions = self.priors.groups.rows[name], self.priors.groups.positions[name]
            chosen = torch.randperm(len(rows), generator=generator, device=device)[:_GAP_FILTERS]
            filters = draw.filters.detach()[rows[chosen]]
            gap = bound_gap(prior, filters, positions[chosen], self.arm.prior_samples, generator=generator)
            found[f"bound_gap_{name}"] = float(gap)
        return found
