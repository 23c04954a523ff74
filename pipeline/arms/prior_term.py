"""The prior's part of the objective: (T / N_vox) Σ [ −H(q) − E_q log p(w) ] over filters and other weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork, WeightDraw
from models.objectives import FilterGroups, bound_gap, kl_term
from models.other_weights import WeightLayout
from models.posteriors.mixture import Mixture
from models.posteriors.posterior import Posterior
from models.priors.prior import FilterPrior
from models.weight_gaussian import WeightGaussian
from pipeline.arms.choices import ArmOptions

_GAP_FILTERS = 256
"""Filters of each group that the gap of the bound is estimated on."""


@dataclass(frozen=True)
class WeightPriors:
    """What stands for p(w).

    Attributes:
        fitted: group → density over filters.
        groups: rows and positions of these groups among the learned filters.
        filters: for `l2` and `l2_sp`, the density of the filters, one for each component of the posterior.
        others: the density of the other learned weights, one for each component; none where they have none.
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


class PriorTerm:
    """Computes the prior's part of a step.

    Args:
        arm: temperature, samples, share, warm-up.
        priors: p(w).
        voxels: N_vox.
        steps: of the training, for the warm-up.
        seed: of what only the log draws, so that logging does not change the training.
    """

    def __init__(self, arm: ArmOptions, priors: WeightPriors, voxels: int, steps: int, seed: int) -> None:
        self.priors = priors
        self._arm = arm
        self._voxels = voxels
        self._warm_up = arm.kl_warm_up * steps
        self._seed = seed

    def weight(self, step: int) -> float:
        """Share of T at a step: rises linearly over the warm-up."""
        return min((step + 1) / self._warm_up, 1.0) if self._warm_up > 0 else 1.0

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
            share: of the filters that are looked at; the arm's if left out.
            terms: gets the nats of every group and the share of filters that left the prior.
            posterior: q over the filters; the model's, whose entropy is the repulsive one for a mixture in training, if
                left out.
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
                samples=self._arm.prior_samples,
                share=self._arm.filter_share if share is None else share,
                generator=generator,
            )
            total = total + divergence.kl
            if terms is not None:
                terms |= {f"kl_nats_{name}": float(nats) for name, nats in divergence.kl_per_group.items()}
                terms |= {f"left_prior_{name}": float(part) for name, part in divergence.left_prior.items()}
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

    def scaled(self, kl: Tensor, step: int) -> Tensor:
        """Returns (T / N_vox) · KL with the weight of the step, nats per voxel."""
        return self._arm.posterior_temperature * self.weight(step) / self._voxels * kl

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

    def gaps(self, draw: WeightDraw, step: int) -> dict[str, float]:
        """Estimates by how many nats per filter the K-sample bound of each group lies below the density."""
        found = {}
        for name, prior in self.priors.fitted.items():
            if not prior.is_bound:
                continue
            device = draw.filters.device
            generator = torch.Generator(device).manual_seed(stream_seed(self._seed, "bound-gap", step))
            rows, positions = self.priors.groups.rows[name], self.priors.groups.positions[name]
            chosen = torch.randperm(len(rows), generator=generator, device=device)[:_GAP_FILTERS]
            filters = draw.filters.detach()[rows[chosen]]
            gap = bound_gap(prior, filters, positions[chosen], self._arm.prior_samples, generator=generator)
            found[f"bound_gap_{name}"] = float(gap)
        return found
