"""What is done to an image whose clean version is to be found: coarse noise, and hidden blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from models.random_draws import standard_normal


def coarse_noise(image: Tensor, spacing: int, level: float, generator: torch.Generator | None) -> Tensor:
    """Draws smooth noise for images `[N, C, X, Y, Z]`, each channel by itself.

    Normal numbers on a grid of points `spacing` voxels apart, shifted at random against the image and interpolated
    linearly. At its points the noise has the standard deviation `level`, between them less.
    """
    size = image.shape[2:]
    points = [math.ceil(n / spacing) + 2 for n in size]
    drawn = level * standard_normal((*image.shape[:2], *points), image, generator)
    # Points of a grid with aligned corners are exactly `spacing` voxels apart.
    fine = functional.interpolate(
        drawn, size=[(n - 1) * spacing + 1 for n in points], mode="trilinear", align_corners=True
    )
    x, y, z = (_below(spacing, generator) for _ in size)
    return fine[:, :, x : x + size[0], y : y + size[1], z : z + size[2]]


def block_numbers(image: Tensor, block: int, parts: int, generator: torch.Generator | None) -> Tensor:
    """Draws a number below `parts` for every block of each image, the same for its channels.

    The grid of blocks is shifted at random against the image.

    Returns:
        `[N, 1, X, Y, Z]` int64.
    """
    size = image.shape[2:]
    blocks = [math.ceil(n / block) + 1 for n in size]
    device = image.device if generator is None else generator.device
    numbers = torch.randint(parts, (image.shape[0], 1, *blocks), generator=generator, device=device).to(image.device)
    for axis in (2, 3, 4):
        numbers = numbers.repeat_interleave(block, dim=axis)
    x, y, z = (_below(block, generator) for _ in size)
    return numbers[:, :, x : x + size[0], y : y + size[1], z : z + size[2]]


_SHARES = 10_000


def hidden_blocks(image: Tensor, block: int, share: float, generator: torch.Generator | None) -> Tensor:
    """Draws which blocks of images `[N, C, X, Y, Z]` are hidden, each with the probability `share`.

    Returns:
        `[N, 1, X, Y, Z]` bool.
    """
    return block_numbers(image, block, _SHARES, generator) < round(share * _SHARES)


def _below(end: int, generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(end, (1,), generator=generator, device=device).item())
