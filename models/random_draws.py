"""Draws from an explicit torch generator, whatever device the result is needed on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def standard_normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws N(0, 1) numbers with the type and device of `like`, on the generator's own device."""
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=like.dtype).to(like.device)


def random_rows(count: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Draws `size` distinct row numbers below `count`, `[size]` int64, on the generator's device."""
    device = "cpu" if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=device)[:size]


def random_components(log_weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draws component numbers `[count]` int64 in proportion to the weights `[C]`, on the generator's own device."""
    device = log_weights.device if generator is None else generator.device
    weights = log_weights.exp().to(device)
    return torch.multinomial(weights, count, replacement=True, generator=generator).to(log_weights.device)


def draw_seed(generator: torch.Generator | None) -> int:
    """Draws a 31-bit seed for a library that takes one."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(0, 2**31 - 1, (1,), generator=generator, device=device).item())
