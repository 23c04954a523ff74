"""Densities of the latent of a filter VAE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from models.random_draws import random_components, standard_normal


class LatentPriorKind(StrEnum):
    """Density of the latent of a filter VAE."""

    STANDARD = "standard"
    """N(0, I), the published choice."""
    BOOSTED = "boosted"
    """BooVAE: a mixture of encoder components at learned pseudo-inputs, grown one at a time; takes new source sets."""
    MIXTURE = "mixture"
    """A mixture of normal distributions, learned by gradient steps; a new source set adds components to it."""


@dataclass(frozen=True)
class NormalMixture:
    """A mixture of normal distributions with diagonal covariances.

    Attributes:
        log_weights: `[C]`, normalised.
        means: `[C, latent]`.
        log_variances: `[C, latent]`.
    """

    log_weights: Tensor
    means: Tensor
    log_variances: Tensor

    def log_prob(self, latents: Tensor) -> Tensor:
        """Returns the log density, `[F]`, of latents `[F, latent]`."""
        squared = (latents[:, None] - self.means).square() * torch.exp(-self.log_variances)
        normals = -0.5 * (squared + self.log_variances + math.log(2 * math.pi)).sum(2)
        return torch.logsumexp(self.log_weights + normals, dim=1)

    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws `[count, latent]`."""
        chosen = random_components(self.log_weights, count, generator)
        noise = standard_normal((count, self.means.shape[1]), self.means, generator)
        return self.means[chosen] + torch.exp(0.5 * self.log_variances[chosen]) * noise

    def joined(self, other: NormalMixture, share: float) -> NormalMixture:
        """Returns (1 − share) · self + share · other."""
        log_weights = torch.cat([self.log_weights + math.log1p(-share), other.log_weights + math.log(share)])
        return NormalMixture(
            log_weights, torch.cat([self.means, other.means]), torch.cat([self.log_variances, other.log_variances])
        )


class LatentPrior(nn.Module, ABC):
    """A density over the latent z of a VAE."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    @abstractmethod
    def log_prob(self, latents: Tensor) -> Tensor:
        """Returns log p(z) in nats, `[F]`, of latents `[F, latent]`."""

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws `[count, latent]`."""

    def kl(self, mean: Tensor, log_variance: Tensor, latents: Tensor) -> Tensor:
        """Returns KL(r ‖ p), `[F]`, of normal distributions r; by default −H(r) in closed form, log p(z) from a draw.

        Args:
            mean: `[F, latent]`, of r.
            log_variance: `[F, latent]`, of r.
            latents: `[F, latent]`, one draw of each r.
        """
        entropy = 0.5 * (log_variance + 1 + math.log(2 * math.pi)).sum(1)
        return -entropy - self.log_prob(latents)


class StandardNormal(LatentPrior):
    """N(0, I), the published choice."""

    reference: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__(latent)
        # Follows the module to its device and precision; holds nothing to be saved.
        self.register_buffer("reference", torch.zeros(()), persistent=False)

    def log_prob(self, latents: Tensor) -> Tensor:
        """Returns log N(z; 0, I), `[F]`."""
        return -0.5 * (latents.square() + math.log(2 * math.pi)).sum(1)

    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws `[count, latent]`."""
        return standard_normal((count, self.latent), self.reference, generator)

    def kl(self, mean: Tensor, log_variance: Tensor, latents: Tensor) -> Tensor:
        """Returns KL(r ‖ N(0, I)) in closed form, `[F]`; Kingma and Welling 2014, appendix B."""
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


class MixturePrior(LatentPrior):
    """A latent prior that is a mixture of normal distributions."""

    @property
    @abstractmethod
    def mixture(self) -> NormalMixture:
        """The density itself."""

    def log_prob(self, latents: Tensor) -> Tensor:
        """Returns log p(z), `[F]`."""
        return self.mixture.log_prob(latents)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws `[count, latent]`."""
        return self.mixture.sample(count, generator)


class LearnedMixture(MixturePrior):
    """A mixture of normal distributions whose weights, means and variances are trained with the VAE.

    A new source set freezes the existing components and adds its own (the mixture baseline of the BooVAE paper).
    """

    earlier_log_weights: Tensor
    earlier_means: Tensor
    earlier_log_variances: Tensor
    earlier_share: Tensor

    def __init__(self, latent: int, components: int) -> None:
        super().__init__(latent)
        self.logits = nn.Parameter(torch.zeros(components))
        # Spread out, so that components differ from the first step on.
        self.means = nn.Parameter(0.5 * torch.randn(components, latent))
        self.log_variances = nn.Parameter(torch.zeros(components, latent))
        self.register_buffer("earlier_log_weights", torch.zeros(0))
        self.register_buffer("earlier_means", torch.zeros(0, latent))
        self.register_buffer("earlier_log_variances", torch.zeros(0, latent))
        self.register_buffer("earlier_share", torch.zeros(()))

    @property
    def mixture(self) -> NormalMixture:
        """The density itself."""
        own = NormalMixture(torch.log_softmax(self.logits, 0), self.means, self.log_variances)
        if not len(self.earlier_log_weights):
            return own
        earlier = NormalMixture(self.earlier_log_weights, self.earlier_means, self.earlier_log_variances)
        return earlier.joined(own, 1 - float(self.earlier_share))

    @torch.no_grad()
    def grow(self, sets: int) -> None:
        """Freezes the mixture as it is, with (sets − 1)/sets of the weight, and starts new components inside it."""
        now = self.mixture
        self.earlier_log_weights = now.log_weights.clone()
        self.earlier_means = now.means.clone()
        self.earlier_log_variances = now.log_variances.clone()
        self.earlier_share.fill_((sets - 1) / sets)
        self.logits.zero_()
