"""The most probable class of each voxel, by comparisons, which is a hundred times faster than `argmax` on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def most_probable_class(probability: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns `[…]` uint8 class numbers from probabilities `[K + 1, …]`; of equal ones the lowest class, like `argmax`.

    Args:
        probability: of at most 256 classes, background first, or logits; a tensor, or one tensor for each class.
    """
    chosen = (probability[1] > probability[0]).to(torch.uint8)
    if len(probability) > 2:
        best = torch.maximum(probability[0], probability[1])
        for number in range(2, len(probability)):
            chosen[probability[number] > best] = number
            torch.maximum(best, probability[number], out=best)
    return chosen


def predicted_classes(foreground: torch.Tensor, thresholds: Sequence[float] | None = None) -> torch.Tensor:
    """Returns `[X, Y, Z]` uint8 class numbers from the probabilities `[K, X, Y, Z]` of the foreground alone.

    The background has the remaining probability.

    Args:
        foreground: probabilities of all classes but the background.
        thresholds: of each class, above 0; a voxel gets the class that exceeds its threshold by the largest factor, or
            background if none does. `None` for the most probable class.
    """
    foreground = foreground.float()
    if thresholds is None:
        return most_probable_class([1 - foreground.sum(dim=0), *foreground])
    scores = [own / threshold for own, threshold in zip(foreground, thresholds, strict=True)]
    return most_probable_class([torch.ones_like(scores[0]), *scores])
