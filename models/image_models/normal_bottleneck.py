"""The normal bottleneck of a variational autoencoder, and the bounds on the log evidence of an image in nats.

Sources: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014 (equation 3, and appendix B for the KL);
Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders", ICLR 2016 (equation 8); Rybkin, Daniilidis, Levine,
"Simple and effective VAE training with calibrated decoders", ICML 2021, for the learned standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.random_draws import standard_normal

_LOG_2PI = math.log(2 * math.pi)
_LEAST_LOG_STD = -5.0
"""Less than a hundredth of the units of the scaled image: no likelihood grows for ever where the image is constant."""


@dataclass(frozen=True)
class LatentNormal:
    """A normal with independent numbers over the latent, `[N, L, x, y, z]` each."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """Draws a latent, differentiably."""
        return self.mean + (0.5 * self.log_variance).exp() * standard_normal(self.mean.shape, self.mean, generator)

    def kl(self) -> Tensor:
        """KL divergence from N(0, 1), summed over the latent: `[N]` nats."""
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return 0.5 * terms.flatten(1).sum(1)

    def log_ratio(self, latent: Tensor) -> Tensor:
        """Log p(z) / q(z) of a latent under N(0, 1) and this normal: `[N]` nats."""
        deviation = (latent - self.mean).square() * (-self.log_variance).exp()
        return 0.5 * (deviation + self.log_variance - latent.square()).flatten(1).sum(1)


class NormalBottleneck(nn.Module):
    """Turns features into a normal over a latent, and a latent into features.

    Args:
        features: channels of the bottleneck.
        latent: channels of the latent.
        channels: of the image, each with a standard deviation of its own.
    """

    def __init__(self, features: int, latent: int, channels: int) -> None:
        super().__init__()
        self.mean = nn.Conv3d(features, latent, 1)
        self.log_variance = nn.Conv3d(features, latent, 1)
        self.expand = nn.Conv3d(latent, features, 1)
        self.log_std = nn.Parameter(torch.zeros(channels))
        # A start at the prior's own variance, or the KL of random features swamps the image.
        nn.init.zeros_(self.log_variance.weight)
        nn.init.zeros_(self.log_variance.bias)  # type: ignore[arg-type]

    def posterior(self, features: Tensor) -> LatentNormal:
        """The normal over the latent, given features `[N, F, x, y, z]` of any precision."""
        mean, log_variance = self.mean(features), self.log_variance(features)
        return LatentNormal(_full(mean), _full(log_variance).clamp(-12, 6))

    def nats(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Computes −log p(x | z) of every voxel, summed over channels: `[N, X, Y, Z]`."""
        log_std = self.log_std.clamp_min(_LEAST_LOG_STD)[:, None, None, None]
        squares = ((_full(reconstruction) - image) * (-log_std).exp()).square()
        return (0.5 * (squares + _LOG_2PI) + log_std).sum(1)


def elbo(
    posterior: LatentNormal, nats_of: Callable[[Tensor], Tensor], foreground: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Computes the evidence lower bound with one draw and its KL in closed form.

    Args:
        posterior: q(z | x).
        nats_of: maps a latent to −log p(x | z) of every voxel, `[N, X, Y, Z]`.
        foreground: `[N, X, Y, Z]` bool, the voxels that count.
        generator: of the draw.

    Returns:
        The bound on log p(x) of each image, `[N]` nats, and the KL in it.
    """
    nats = (nats_of(posterior.draw(generator)) * foreground).flatten(1).sum(1)
    divergence = posterior.kl()
    return -nats - divergence, divergence


def importance_weighted_bound(
    posterior: LatentNormal,
    nats_of: Callable[[Tensor], Tensor],
    foreground: Tensor,
    samples: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Computes log (1/K) Σ p(x | z_k) p(z_k) / q(z_k | x), which tends to log p(x) with K.

    Args:
        posterior: q(z | x).
        nats_of: maps a latent to −log p(x | z) of every voxel, `[N, X, Y, Z]`.
        foreground: `[N, X, Y, Z]` bool, the voxels that count.
        samples: K.
        generator: of the draws.

    Returns:
        The bound, `[N]` nats; and −log p(x | z) of every voxel, averaged over draws by their weights, `[N, X, Y, Z]`.
    """
    weights, maps = [], []
    for _ in range(samples):
        latent = posterior.draw(generator)
        nats = nats_of(latent)
        weights.append(posterior.log_ratio(latent) - (nats * foreground).flatten(1).sum(1))
        maps.append(nats)
    stacked = torch.stack(weights)
    bound = torch.logsumexp(stacked, dim=0) - math.log(samples)
    return bound, torch.einsum("kn,knxyz->nxyz", stacked.softmax(dim=0), torch.stack(maps))


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
