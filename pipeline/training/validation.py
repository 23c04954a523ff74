"""Mean Dice of a network on a few cases, to monitor a training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.metrics.overlap import count_voxels, dice
from pipeline.prediction.most_probable import most_probable_class
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
    for case in cases:
        logits = predict_logits(network, case.image().to(device), patch, window)
        predicted = most_probable_class(logits).cpu().numpy()
        label = case.label().numpy()
        values += [dice(count_voxels(predicted == k, label == k)) for k in range(1, len(case.classes) + 1)]
    return sum(values) / len(values)
