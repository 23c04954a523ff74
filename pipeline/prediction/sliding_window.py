"""Whole-volume prediction by MONAI's sliding window with Gaussian blending."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field

from data.options import Options


class SlidingWindowOptions(Options):
    """How the network is moved over a volume."""

    overlap: float = Field(default=0.25, ge=0, lt=1)
    """Share of a window that overlaps with the next."""
    batch: int = Field(default=4, ge=1)
    """Windows in one forward pass."""


def predict_logits(
    forward: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    patch: Sequence[int],
    options: SlidingWindowOptions,
) -> torch.Tensor:
    """Predicts a whole volume.

    Args:
        forward: `[N, C, *patch]` → logits `[N, K + 1, *patch]`; called for every window with the same weights.
        image: `[C, X, Y, Z]`.
        patch: size of the window.
        options: overlap and batch.

    Returns:
        Logits `[K + 1, X, Y, Z]`, windows blended with Gaussian weights.
    """
    # MONAI takes seconds to import, and a configuration needs only the options of this file.
    from monai.inferers import SlidingWindowInferer

    window = SlidingWindowInferer(
        roi_size=tuple(patch),
        sw_batch_size=options.batch,
        overlap=options.overlap,
        mode="gaussian",
        padding_mode="replicate",
    )
    with torch.inference_mode():
        return window(image[None], forward)[0]
