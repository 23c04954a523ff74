"""Dividing logits by a temperature when only probabilities are available (Guo et al. 2017).

`softmax(log p / T)` is exact for one network, whose logits differ from `log p` by a constant for each voxel; for
several draws or networks, it divides the logits of their mean.

Predictions are stored as logarithms in 16 bits, which keep their relative precision however small they are: a high
temperature makes small probabilities matter. All that decides anything reads what is, or would be, stored, so that
`graft predict` and bundles make the masks that `graft evaluate` measured, and that thresholds were fitted for.
"""

from __future__ import annotations

import torch

from models.heads import Heads

_SMALLEST = torch.finfo(torch.float32).tiny
"""Far below any probability that matters at a reasonable temperature."""


def from_log_probability(
    log_probability: torch.Tensor, temperature: float, heads: Heads = Heads.EXCLUSIVE
) -> torch.Tensor:
    """Returns `softmax(log p / T)` over the classes in dimension 0; of overlapping structures `sigmoid(logit p / T)`.

    Args:
        log_probability: `[C, …]` of the channels of `heads`, in any precision.
        temperature: T, above 0; values above 1 make predictions less certain. The most probable class does not change.
        heads: what the channels stand for.

    Returns:
        `[C, …]` float32, or float64 from float64.
    """
    wide = log_probability if log_probability.dtype == torch.float64 else log_probability.float()
    if heads is Heads.EXCLUSIVE:
        return (wide / temperature).softmax(dim=0)
    return ((wide - (-torch.expm1(wide)).clamp_min(_SMALLEST).log()) / temperature).sigmoid()


def tempered(probability: torch.Tensor, temperature: float, heads: Heads = Heads.EXCLUSIVE) -> torch.Tensor:
    """Divides the logits of probabilities `[C, …]` by T; with T = 1 they are returned as they are."""
    if temperature == 1:
        return probability
    return from_log_probability(log_probability(probability), temperature, heads)


def as_stored(probability: torch.Tensor) -> torch.Tensor:
    """Returns the logarithms of probabilities as a prediction stores them, float16."""
    return log_probability(probability).half()


def read_probability(probability: torch.Tensor, temperature: float, heads: Heads = Heads.EXCLUSIVE) -> torch.Tensor:
    """Returns averaged probabilities `[C, …]` as they would be read from a stored prediction, with temperature T."""
    return from_log_probability(as_stored(probability), temperature, heads)


def log_probability(probability: torch.Tensor) -> torch.Tensor:
    """Returns log p with a floor that keeps it finite."""
    return probability.clamp_min(_SMALLEST).log()
