"""The most probable class of each voxel, by comparisons: on a CPU a hundred times faster than `argmax`."""

from __future__ import annotations

import torch


def most_probable_class(probability: torch.Tensor) -> torch.Tensor:
    """Returns `[…]` uint8 class numbers from probabilities `[K + 1, …]`; of equal ones the lowest class, like `argmax`.

    Args:
        probability: of at most 256 classes, the background first.
    """
    chosen = (probability[1] > probability[0]).to(torch.uint8)
    if len(probability) > 2:
        best = torch.maximum(probability[0], probability[1])
        for number in range(2, len(probability)):
            chosen[probability[number] > best] = number
            torch.maximum(best, probability[number], out=best)
    return chosen
