"""The latent prior of BooVAE: a boosted mixture of encoder components at learned pseudo-inputs.

Source: Egorov, Kuzina, Burnaev, "BooVAE: Boosting approach for continual learning of VAE", NeurIPS 2021. The best prior
is the mean of all encoder distributions, p*(z) = (1/N) Σ_n q(z|x_n). It is approximated by components h = q(z|u), added
one at a time: first u, then the weight α* = argmin KL(α h + (1 − α) p ‖ p*).

The paper finds u by h* = argmin KL(h ‖ (p*/p)^λ). Where the tails of p are as thin as those of p*, log p*/p rises
without bound away from p, and u diverges. The default is therefore the exact objective KL(α h + (1 − α) p ‖ p*) with
α = 1/(C + 1), which is bounded below; the printed form is an option.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from models.priors.latent_prior import MixturePrior, NormalMixture
from models.random_draws import random_rows, standard_normal

Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Maps standardised filters `[F, D]` and their layer rows `[F]` to mean and log-variance, each `[F, latent]`."""

_DRAWS_FOR_COMPONENT = 16
_DRAWS_FOR_WEIGHT = 1000


class BoostingObjective(StrEnum):
    """What the pseudo-input of a new component minimises."""

    EXACT = "exact"
    """KL(α h + (1 − α) p ‖ p*) with α = 1/(C + 1): bounded below."""
    FIRST_ORDER = "first_order"
    """KL(h ‖ (p*/p)^λ), as in the paper; has no minimum where p is as narrow as p*."""


@dataclass(frozen=True)
class BoostingSettings:
    """How a component is found.

    Attributes:
        objective: what its pseudo-input minimises.
        weight: λ of the first-order objective.
        steps: optimiser steps for its pseudo-input.
        subset: filters that represent the source set in p*.
    """

    objective: BoostingObjective
    weight: float
    steps: int
    subset: int


class BoostedMixture(MixturePrior):
    """Mixture of q(z|u_c) at pseudo-inputs u_c.

    Components are kept as numbers, so that they stay as they are when the encoder is trained on the target.
    """

    log_weights: Tensor
    means: Tensor
    log_variances: Tensor
    pseudo_inputs: Tensor
    pseudo_rows: Tensor

    def __init__(self, latent: int, inputs: int) -> None:
        super().__init__(latent)
        self.register_buffer("log_weights", torch.zeros(0))
        self.register_buffer("means", torch.zeros(0, latent))
        self.register_buffer("log_variances", torch.zeros(0, latent))
        self.register_buffer("pseudo_inputs", torch.zeros(0, inputs))
        self.register_buffer("pseudo_rows", torch.zeros(0, dtype=torch.int64))

    @property
    def mixture(self) -> NormalMixture:
        """The density itself."""
        return NormalMixture(self.log_weights, self.means, self.log_variances)

    def refresh(self, encode: Encode, conditional: bool) -> None:
        """Places the components where the encoder now puts the pseudo-inputs, with gradients to the encoder."""
        self.means, self.log_variances = encode(self.pseudo_inputs, self.pseudo_rows if conditional else None)

    def settle(self) -> None:
        """Cuts the components off from the encoder."""
        self.means, self.log_variances = self.means.detach(), self.log_variances.detach()

    @torch.no_grad()
    def add(self, pseudo_input: Tensor, row: Tensor | None, share: float, encode: Encode) -> None:
        """Adds the component at a pseudo-input `[1, D]` (of the layer `row` `[1]`) with a share of the weight."""
        weights = torch.tensor([math.log(share)], dtype=self.means.dtype, device=self.means.device)
        rest = self.log_weights + (math.log1p(-share) if share < 1 else 0.0)
        self.log_weights = torch.cat([rest, weights])
        self.pseudo_inputs = torch.cat([self.pseudo_inputs, pseudo_input])
        no_row = torch.zeros(1, dtype=torch.int64, device=self.pseudo_rows.device)
        self.pseudo_rows = torch.cat([self.pseudo_rows, no_row if row is None else row])
        mean, log_variance = encode(pseudo_input, row)
        self.means = torch.cat([self.means, mean])
        self.log_variances = torch.cat([self.log_variances, log_variance])


@torch.no_grad()
def aggregate_posterior(
    encode: Encode, standardised: Tensor, rows: Tensor | None, subset: int, generator: torch.Generator | None
) -> NormalMixture:
    """Returns (1/M) Σ q(z|x_m) over a random subset of M filters, which approximates p*."""
    chosen = random_rows(len(standardised), subset, generator).to(standardised.device)
    means, log_variances = encode(standardised[chosen], None if rows is None else rows[chosen])
    return NormalMixture(torch.full_like(means[:, 0], -math.log(len(chosen))), means, log_variances)


def boost(
    prior: BoostedMixture,
    encode: Encode,
    best: NormalMixture,
    standardised: Tensor,
    rows: Tensor | None,
    settings: BoostingSettings,
    generator: torch.Generator | None,
) -> None:
    """Adds one component to the prior.

    Args:
        prior: grows by one component.
        encode: the encoder, which is not changed.
        best: p*.
        standardised: `[F, D]`, filters from which the search for the pseudo-input starts.
        rows: `[F]`, their layers, for a conditional VAE.
        settings: λ, steps and subset.
        generator: source of all draws.
    """
    chosen = random_rows(len(standardised), settings.subset, generator).to(standardised.device)
    starts, start_rows = standardised[chosen], None if rows is None else rows[chosen]
    if not len(prior.log_weights):
        middle = (starts - starts.mean(0)).square().sum(1).argmin()
        prior.add(starts[middle][None], None if start_rows is None else start_rows[middle][None], 1.0, encode)
        return
    current = NormalMixture(prior.log_weights, prior.means.detach(), prior.log_variances.detach())
    with torch.no_grad():
        means, _ = encode(starts, start_rows)
        first = (best.log_prob(means) - current.log_prob(means)).argmax()
    row = None if start_rows is None else start_rows[first][None]
    pseudo_input = _fit_pseudo_input(encode, starts[first][None], row, best, current, settings, generator)
    with torch.no_grad():
        mean, log_variance = encode(pseudo_input, row)
        component = NormalMixture(torch.zeros_like(mean[:, 0]), mean, log_variance)
        share = best_share(component, current, best, generator)
    prior.add(pseudo_input, row, share, encode)


def _fit_pseudo_input(
    encode: Encode,
    start: Tensor,
    row: Tensor | None,
    best: NormalMixture,
    current: NormalMixture,
    settings: BoostingSettings,
    generator: torch.Generator | None,
) -> Tensor:
    """Finds the pseudo-input of a new component by gradient steps, from a filter where p*/p is largest."""
    share = 1 / (len(current.log_weights) + 1)
    of_current = current.sample(_DRAWS_FOR_COMPONENT * len(current.log_weights), generator)
    pseudo_input = start.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([pseudo_input], lr=0.05)
    for _ in range(settings.steps):
        mean, log_variance = encode(pseudo_input, row)
        noise = standard_normal((_DRAWS_FOR_COMPONENT, mean.shape[1]), mean, generator)
        latents = mean + torch.exp(0.5 * log_variance) * noise
        if settings.objective is BoostingObjective.FIRST_ORDER:
            ratio = best.log_prob(latents) - current.log_prob(latents)
            loss = -0.5 * log_variance.sum() - settings.weight * ratio.mean()
        else:
            joined = current.joined(NormalMixture(torch.zeros_like(mean[:, 0]), mean, log_variance), share)
            excess = (joined.log_prob(latents) - best.log_prob(latents)).mean()
            loss = share * excess + (1 - share) * joined.log_prob(of_current).mean()
        (pseudo_input.grad,) = torch.autograd.grad(loss, [pseudo_input])
        optimiser.step()
    return pseudo_input.detach()


@torch.no_grad()
def best_share(
    component: NormalMixture, current: NormalMixture, best: NormalMixture, generator: torch.Generator | None
) -> float:
    """Returns α* = argmin KL(α h + (1 − α) p ‖ p*), to a hundredth, from the same draws for all α."""
    shares = torch.arange(1, 100, dtype=current.means.dtype, device=current.means.device)[:, None] / 100

    def excess(latents: Tensor) -> Tensor:
        """Returns E[log(α h + (1 − α) p) − log p*] over the latents, `[99]`."""
        joined = torch.logaddexp(
            component.log_prob(latents) + shares.log(), current.log_prob(latents) + torch.log1p(-shares)
        )
        return (joined - best.log_prob(latents)).mean(1)

    new = excess(component.sample(_DRAWS_FOR_WEIGHT, generator))
    old = excess(current.sample(_DRAWS_FOR_WEIGHT, generator))
    divergence = shares[:, 0] * new + (1 - shares[:, 0]) * old
    return float(shares[divergence.argmin(), 0])
