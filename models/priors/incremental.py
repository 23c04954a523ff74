"""Ways to fit a filter VAE to source sets that arrive one after the other, of which BooVAE is one.

All but `joint` see only the filters of the set that has just arrived; `joint` sees those of all sets so far and is the
upper bound. EWC is elastic weight consolidation (Kirkpatrick et al. 2017): a quadratic penalty on the change of every
weight, with the diagonal of the Fisher information of the earlier sets as its strength. From the third set on it is the
recursive form (Huszár 2018): one penalty, centred where the last set left the weights, with the information of all sets
added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from models.filter_bank import FilterBank
from models.priors.filter_vae import FilterVAE
from models.priors.latent_prior import LatentPriorKind
from models.priors.vae_options import FilterVAEOptions
from models.random_draws import random_rows


class IncrementalMethod(StrEnum):
    """How a further source set is learned."""

    NEW_ONLY = "new_only"
    """Fit again, to the newest set only; those before are forgotten."""
    FINE_TUNED = "fine_tuned"
    """Continue training on the newest set, and nothing else: the standard VAE of the BooVAE paper."""
    EWC = "ewc"
    """Continue training on the newest set, constrained by the Fisher information of those before."""
    MIXTURE = "mixture"
    """A mixture-of-Gaussians latent prior: components of earlier sets are frozen, the newest adds its own."""
    BOOSTED = "boosted"
    """BooVAE: new components, and a regulariser at the pseudo-inputs of earlier sets."""
    BOOSTED_EWC = "boosted_ewc"
    """BooVAE, and the weights are constrained by the Fisher information as well."""
    JOINT = "joint"
    """Fit again, to the filters of all sets so far, with as many steps as the others took: the upper bound."""

    @property
    def is_elastic(self) -> bool:
        """Whether the Fisher information of earlier sets constrains the weights."""
        return self in {IncrementalMethod.EWC, IncrementalMethod.BOOSTED_EWC}

    @property
    def starts_anew(self) -> bool:
        """Whether every set means a first fit of a new VAE."""
        return self in {IncrementalMethod.NEW_ONLY, IncrementalMethod.JOINT}


_LATENT_PRIORS = {
    IncrementalMethod.BOOSTED: LatentPriorKind.BOOSTED,
    IncrementalMethod.BOOSTED_EWC: LatentPriorKind.BOOSTED,
    IncrementalMethod.MIXTURE: LatentPriorKind.MIXTURE,
}


@dataclass(frozen=True)
class ElasticPenalty:
    """(λ/2) Σ_i F_i (θ_i − θ*_i)² over the weights of encoder and decoder, in nats per filter.

    Attributes:
        vae: the VAE that is trained.
        centres: θ*, by name of the parameter.
        fisher: F, by name of the parameter: the information that a filter of each earlier set holds, added up.
        weight: λ; 1 weighs a filter of an earlier set like one of the newest.
    """

    vae: FilterVAE
    centres: dict[str, Tensor]
    fisher: dict[str, Tensor]
    weight: float

    def __call__(self) -> Tensor:
        """Computes the penalty, a scalar."""
        parts = [
            (self.fisher[name] * (parameter - self.centres[name]).square()).sum()
            for name, parameter in self.vae.named_parameters()
        ]
        return 0.5 * self.weight * torch.stack(parts).sum()


def elastic_penalty(
    vae: FilterVAE,
    bank: FilterBank,
    weight: float,
    generator: torch.Generator | None,
    earlier: ElasticPenalty | None = None,
    filters: int = 500,
) -> ElasticPenalty:
    """Measures how much each weight of a fitted VAE matters for the sets so far, as the penalty of its next update.

    Args:
        vae: last fitted to, or updated with, `bank`.
        bank: filters of the newest source set.
        weight: λ.
        generator: source of the draws.
        earlier: the penalty under which the VAE learned that set, which holds the information of those before.
        filters: how many of them estimate the Fisher information: the mean square of the gradient of each filter's
            bound (the empirical Fisher).
    """
    vae.requires_grad_(True)
    parameters = dict(vae.named_parameters())
    if earlier is None:
        fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    else:
        fisher = {name: information.clone() for name, information in earlier.fisher.items()}
    chosen = bank[random_rows(len(bank), min(filters, len(bank)), generator).cpu()]
    data, _ = vae.standardised(chosen)
    for row in torch.arange(len(chosen), device=data.filters.device).split(1):
        one = data[row]
        bound = vae.bound(one.filters, one.rows, 1, generator).sum()
        gradients = torch.autograd.grad(bound, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                fisher[name] += gradient.square() / len(chosen)
    centres = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    return ElasticPenalty(vae, centres, fisher, weight)


def fit_sets(
    method: IncrementalMethod,
    options: FilterVAEOptions,
    sets: Iterable[FilterBank],
    generator: torch.Generator | None = None,
    ewc_weight: float = 1.0,
) -> Iterator[FilterVAE]:
    """Fits a VAE to source sets in the order in which they arrive.

    A set is taken from `sets` when its turn has come; only `joint` keeps it afterwards.

    Args:
        method: how further sets are learned.
        options: of the VAE; the method sets its latent prior, and `joint` multiplies the steps by the number of sets.
        sets: filters of each source set, of the same layers.
        generator: source of all randomness.
        ewc_weight: λ of elastic weight consolidation.

    Yields:
        The VAE after each arrival. The next arrival may change it in place: score it, or copy it, before.

    Raises:
        ModelError: if a bank cannot be fitted to.
    """
    latent_prior = _LATENT_PRIORS.get(method, LatentPriorKind.STANDARD)
    options = options.model_copy(update={"latent_prior": latent_prior})
    vae: FilterVAE | None = None
    elastic: ElasticPenalty | None = None
    kept: list[FilterBank] = []
    for bank in sets:
        if vae is None or method.starts_anew:
            kept = [*kept, bank] if method is IncrementalMethod.JOINT else [bank]
            steps = options.max_steps * len(kept)
            vae = FilterVAE(options.model_copy(update={"max_steps": steps}), bank.kernel_voxels)
            vae.to(bank.filters.dtype)
            vae.fit(_alike(kept, generator), generator)
        else:
            free = _no_penalty if method is IncrementalMethod.FINE_TUNED else None
            vae.update(bank, generator, None, elastic or free)
        if method.is_elastic:
            elastic = elastic_penalty(vae, bank, ewc_weight, generator, elastic)
        yield vae


def _alike(banks: list[FilterBank], generator: torch.Generator | None) -> FilterBank:
    """Joins sets so that they count alike, whatever their sizes, as in p* of BooVAE."""
    least = min(len(bank) for bank in banks)
    return banks[0] if len(banks) == 1 else FilterBank.concatenate([b.subsample(least, generator) for b in banks])


def _no_penalty() -> Tensor:
    return torch.zeros(())
