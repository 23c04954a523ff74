"""Masks from probabilities, by comparisons, which are a hundred times faster than `argmax` on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from models.heads import Heads


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


def region_codes(outputs: torch.Tensor, thresholds: Sequence[float] | None = None) -> torch.Tensor:
    """Returns `[…]` int32 codes of overlapping structures, each where its output `[K, …]` exceeds its threshold."""
    codes = torch.zeros(outputs.shape[1:], dtype=torch.int32, device=outputs.device)
    for number, (own, threshold) in enumerate(zip(outputs, thresholds or [0.5] * len(outputs), strict=True), start=1):
        codes += (own > threshold).int() * Heads.OVERLAPPING.code(number)
    return codes


def single_codes(probability: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Returns `[…]` codes of the probabilities `[C, …]` of all channels, without thresholds."""
    return most_probable_class(probability) if heads is Heads.EXCLUSIVE else region_codes(probability)


def predicted_classes(
    foreground: torch.Tensor, thresholds: Sequence[float] | None = None, heads: Heads = Heads.EXCLUSIVE
) -> torch.Tensor:
    """Returns `[X, Y, Z]` codes of `heads` from the probabilities `[K, X, Y, Z]` of the foreground alone.

    Exclusive classes give class numbers, uint8; their background has the remaining probability. Of overlapping
    structures, each has its own mask.

    Args:
        foreground: probabilities of all classes but the background.
        thresholds: of each class, above 0; a voxel gets the class that exceeds its threshold by the largest factor, or
            background if none does. `None` for the most probable class. Overlapping structures are where they exceed
            theirs, one half if `None`.
        heads: what the channels stand for.
    """
    foreground = foreground.float()
    if heads is Heads.OVERLAPPING:
        return region_codes(foreground, thresholds)
    if thresholds is None:
        return most_probable_class([1 - foreground.sum(dim=0), *foreground])
    scores = [own / threshold for own, threshold in zip(foreground, thresholds, strict=True)]
    return most_probable_class([torch.ones_like(scores[0]), *scores])
