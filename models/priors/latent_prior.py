"""Densities of the latent of a filter VAE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from models.random_draws import standard_normal


class LatentPrior(nn.Module, ABC):
    """A density over the latent z of a VAE.

    Args:
        latent: dimensions of z.
    """

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
