"""Mean Dice of a network on a few cases, to monitor a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.heads import Heads
from pipeline.metrics.structure_dice import structure_dice
from pipeline.prediction.most_probable import most_probable_class, region_codes
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits
from pipeline.storage.cached_case import CachedCase


def mean_dice(
    network: torch.nn.Module,
    cases: Sequence[CachedCase],
    patch: Sequence[int],
    window: SlidingWindowOptions,
    device: str,
) -> float:
    """Returns the mean Dice over cases and foreground classes; the network must be in evaluation mode."""
    values = []
    heads = cases[0].heads
    for case in cases:
        logits = predict_logits(network, case.image().to(device), patch, window)
        # Of a sigmoid, one half is a logit of 0.
        codes = most_probable_class(logits) if heads is Heads.EXCLUSIVE else region_codes(logits, [0.0] * len(logits))
        values += structure_dice(codes.cpu().numpy(), case.label().numpy(), heads, len(case.classes))
    return sum(values) / len(values)
