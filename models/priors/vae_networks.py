"""Encoders and decoders of filter VAEs: small networks that output mean and log-variance of a normal distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class Architecture(StrEnum):
    """Encoder and decoder of a filter VAE."""

    MLP = "mlp"
    """Fully connected: the cheapest, and the best that was measured."""
    CONVOLUTIONAL = "convolutional"
    """3×3×3 and 1×1×1 convolutions over the kernel, as in the Deep Weight Prior papers."""


class GaussianNet(nn.Module):
    """Maps an input and an optional context to mean and log-variance.

    The log-variance is bounded below smoothly by `floor` and is free above: a squashing function like tanh could not
    describe trained filters, whose variances span orders of magnitude.

    Args:
        body: maps `[F, in + context]` to `[F, width]`.
        mean: maps `[F, width]` to `[F, out]`.
        log_variance: maps `[F, width]` to `[F, out]`.
        floor: least log-variance.
    """

    def __init__(self, body: nn.Module, mean: nn.Module, log_variance: nn.Module, floor: float) -> None:
        super().__init__()
        self.body = body
        self.mean = mean
        self.log_variance = log_variance
        self.floor = floor

    def forward(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance, each `[F, out]`."""
        if context is not None:
            inputs = torch.cat([inputs, context], dim=1)
        features = self.body(inputs)
        log_variance = self.floor + functional.softplus(self.log_variance(features) - self.floor)
        return self.mean(features), log_variance

    @torch.no_grad()
    def start_at_standard_normal(self) -> None:
        """Sets the last layers so that every input gives mean 0 and log-variance 0, whatever the body does."""
        for part in (self.mean, self.log_variance):
            for parameter in part.parameters():
                parameter.zero_()
        if self.floor < 0:
            # floor + softplus(bias − floor) = 0
            bias = self.floor + math.log(math.expm1(-self.floor))
            for module in self.log_variance.modules():
                if isinstance(module, nn.Linear | nn.Conv3d) and module.bias is not None:
                    module.bias.fill_(bias)


class _KernelInput(nn.Module):
    """Turns `[F, 27 + context]` into kernels with the context as constant channels, `[F, 1 + context, 3, 3, 3]`."""

    def forward(self, inputs: Tensor) -> Tensor:
        kernels = inputs[:, :27].reshape(-1, 1, 3, 3, 3)
        context = inputs[:, 27:, None, None, None].expand(-1, -1, 3, 3, 3)
        return torch.cat([kernels, context], dim=1)


def build_encoder(
    architecture: Architecture, inputs: int, context: int, hidden: Sequence[int], latent: int
) -> GaussianNet:
    """Builds r(z|w): `[F, inputs]` and context to the distribution of `[F, latent]`."""
    if architecture is Architecture.MLP:
        body = _mlp([inputs + context, *hidden])
    else:
        layers: list[nn.Module] = [_KernelInput()]
        width = 1 + context
        for size in hidden[:-1]:
            layers += [nn.Conv3d(width, size, 3, padding=1), nn.SiLU()]
            width = size
        body = nn.Sequential(*layers, nn.Conv3d(width, hidden[-1], 3), nn.SiLU(), nn.Flatten())
    return GaussianNet(body, nn.Linear(hidden[-1], latent), nn.Linear(hidden[-1], latent), floor=-12.0)


def build_decoder(
    architecture: Architecture, latent: int, context: int, hidden: Sequence[int], outputs: int, floor: float
) -> GaussianNet:
    """Builds p(w|z): `[F, latent]` and context to the distribution of `[F, outputs]`."""
    if architecture is Architecture.MLP:
        body: nn.Module = _mlp([latent + context, *hidden])
        return GaussianNet(body, nn.Linear(hidden[-1], outputs), nn.Linear(hidden[-1], outputs), floor)
    layers: list[nn.Module] = [
        nn.Unflatten(1, (-1, 1, 1, 1)),
        nn.ConvTranspose3d(latent + context, hidden[-1], 3),
        nn.SiLU(),
    ]
    width = hidden[-1]
    for size in reversed(hidden[:-1]):
        layers += [nn.Conv3d(width, size, 1), nn.SiLU()]
        width = size
    body = nn.Sequential(*layers)

    def voxelwise() -> nn.Module:
        return nn.Sequential(nn.Conv3d(width, 1, 1), nn.Flatten())

    return GaussianNet(body, voxelwise(), voxelwise(), floor)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers)
