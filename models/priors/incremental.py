"""Ways to fit a filter VAE to a second source set, of which BooVAE is one.

`boosted`, `new_only`, `ewc` and `mixture` see only the filters of the second set; `joint` sees both sets at once and is
the upper bound. EWC is elastic weight consolidation (Kirkpatrick et al. 2017): a quadratic penalty on the change of
every weight, with the diagonal of the Fisher information of the first set as its strength.
"""

from __future__ import annotations

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
    """How a second source set is learned."""

    BOOSTED = "boosted"
    """BooVAE: new components, and a regulariser at the pseudo-inputs of the first set."""
    NEW_ONLY = "new_only"
    """Fit again, to the second set only; the first is forgotten."""
    EWC = "ewc"
    """Continue training on the second set, constrained by the Fisher information of the first."""
    MIXTURE = "mixture"
    """A mixture-of-Gaussians latent prior: components of the first set are frozen, the second adds its own."""
    JOINT = "joint"
    """Fit to the filters of both sets: the upper bound, which needs them all."""


_LATENT_PRIORS = {
    IncrementalMethod.BOOSTED: LatentPriorKind.BOOSTED,
    IncrementalMethod.MIXTURE: LatentPriorKind.MIXTURE,
}


@dataclass(frozen=True)
class ElasticPenalty:
    """(λ/2) Σ_i F_i (θ_i − θ*_i)² over the weights of encoder and decoder, in nats per filter.

    Attributes:
        vae: the VAE that is trained.
        centres: θ*, by name of the parameter.
        fisher: F, by name of the parameter, per filter of the first set.
        weight: λ; 1 weighs a filter of the first set like one of the second.
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
    vae: FilterVAE, bank: FilterBank, weight: float, generator: torch.Generator | None, filters: int = 500
) -> ElasticPenalty:
    """Measures how much each weight of a fitted VAE matters for a source set, as the penalty of its update.

    Args:
        vae: fitted to `bank`.
        bank: filters of the first source set.
        weight: λ.
        generator: source of the draws.
        filters: how many of them estimate the Fisher information: the mean square of the gradient of each filter's
            bound (the empirical Fisher).
    """
    vae.requires_grad_(True)
    parameters = dict(vae.named_parameters())
    fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
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


def fit_two_sets(
    method: IncrementalMethod,
    options: FilterVAEOptions,
    first: FilterBank,
    second: FilterBank,
    generator: torch.Generator | None = None,
    ewc_weight: float = 1.0,
) -> FilterVAE:
    """Fits a VAE to one source set and then, by the given method, to another.

    Args:
        method: how the second set is learned.
        options: of the VAE; the method sets its latent prior.
        first: filters of the first source set; after the first fit only `joint` uses them, and `ewc` for its Fisher
            information, which would be stored.
        second: filters of the second source set, of the same layers.
        generator: source of all randomness.
        ewc_weight: λ of elastic weight consolidation.

    Raises:
        ModelError: if a bank cannot be fitted to.
    """
    latent_prior = _LATENT_PRIORS.get(method, LatentPriorKind.STANDARD)
    vae = FilterVAE(options.model_copy(update={"latent_prior": latent_prior}), first.kernel_voxels)
    vae.to(first.filters.dtype)
    if method is IncrementalMethod.JOINT:
        # Sets count alike, whatever their sizes, as in p* of BooVAE.
        least = min(len(first), len(second))
        vae.fit(FilterBank.concatenate([b.subsample(least, generator) for b in (first, second)]), generator)
    elif method is IncrementalMethod.NEW_ONLY:
        vae.fit(second, generator)
    else:
        vae.fit(first, generator)
        ewc = method is IncrementalMethod.EWC
        vae.update(second, generator, None, elastic_penalty(vae, first, ewc_weight, generator) if ewc else None)
    return vae
