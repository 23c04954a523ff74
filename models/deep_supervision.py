"""Deep supervision: coarser levels of the decoder have heads of their own, and their losses help while training.

Source: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 18 (2021): level i has weight 2⁻ⁱ, weights sum to one, labels are shrunk by nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

_LEVEL_AXES = 5
"""Axes of the logits of one level."""


def level_weights(levels: int) -> list[float]:
    """Returns the weights 1, 1/2, 1/4, … of the levels, finest first, divided by their sum."""
    total = 2.0 - 2.0 ** (1 - levels)
    return [2.0**-level / total for level in range(levels)]


def shrink_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Resamples labels `[N, X, Y, Z]` to `[N, *size]` by nearest neighbour, voxel centres aligned."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    # float64 holds every label exactly; interpolation is not defined for integers.
    return functional.interpolate(labels[:, None].double(), size=tuple(size), mode="nearest-exact")[:, 0].to(labels)


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of a loss over the levels of a network's output; the plain loss where there is one level.

    Args:
        loss: maps logits `[N, K+1, X, Y, Z]` and labels `[N, X, Y, Z]` to a scalar.
        shrink: resamples the labels to the size of a level.
    """

    def __init__(self, loss: nn.Module, shrink: Callable[[Tensor, Sequence[int]], Tensor] = shrink_labels) -> None:
        super().__init__()
        self.loss = loss
        self.shrink = shrink

    def forward(self, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            outputs: of a network of `build_network`: logits `[N, K+1, X, Y, Z]` without deep supervision or in
                evaluation; a list, finest first, each at its level's resolution; or MONAI's stack
                `[N, levels, K+1, X, Y, Z]`, in which the coarser levels are enlarged to the finest. Half precision is
                converted to float32 first.
            labels: `[N, X, Y, Z]`, integers from 0 (background) to K, or what else the loss and `shrink` take.

        Returns:
            A scalar.
        """
        if isinstance(outputs, Tensor):
            if outputs.ndim == _LEVEL_AXES:
                return self._level(outputs, labels)
            outputs = outputs.unbind(1)
        losses = [self._level(level, self.shrink(labels, level.shape[2:])) for level in outputs]
        weights = torch.tensor(level_weights(len(losses)), dtype=losses[0].dtype, device=losses[0].device)
        return torch.stack(losses) @ weights

    def _level(self, logits: Tensor, labels: Tensor) -> Tensor:
        half = logits.dtype in (torch.bfloat16, torch.float16)
        loss: Tensor = self.loss(logits.float() if half else logits, labels)
        return loss
