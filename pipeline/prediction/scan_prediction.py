"""Prediction of a whole scan with one weight draw for each pass, accumulating averages on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch

from models.heads import Heads
from pipeline.prediction.expected_dice import DrawMasks
from pipeline.prediction.posterior_average import PosteriorAverage
from pipeline.prediction.slabs import slabs
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Windows `[N, C, *patch]` → logits `[N, K + 1, *patch]`, with the same weights in every call."""


def mirrorings(axes: Iterable[int]) -> list[tuple[int, ...]]:
    """Returns every combination of axes to mirror, the empty one first; 2^n of them for n axes."""
    unique = sorted(set(axes))
    return [chosen for size in range(len(unique) + 1) for chosen in combinations(unique, size)]


def draw_probability(
    forward: Forward,
    image: torch.Tensor,
    patch: Sequence[int],
    window: SlidingWindowOptions,
    flips: Sequence[tuple[int, ...]] = ((),),
    heads: Heads = Heads.EXCLUSIVE,
) -> torch.Tensor:
    """Predicts a scan with one set of weights.

    Args:
        forward: the network with these weights.
        image: `[C, X, Y, Z]`.
        patch: size of the window.
        window: how it moves.
        flips: axes of `[X, Y, Z]` to mirror together; the probabilities are averaged over the entries.
        heads: what the channels of the network stand for.

    Returns:
        Probabilities `[C, X, Y, Z]`.
    """
    with torch.inference_mode():
        total: torch.Tensor | None = None
        for axes in flips:
            dims = [axis + 1 for axis in axes]
            probability = predict_logits(forward, image.flip(dims) if dims else image, patch, window)
            for slab in slabs(probability.shape[1:]):
                probability[:, slab] = heads.probability(probability[:, slab])
            probability = probability.flip(dims) if dims else probability
            total = probability if total is None else total.add_(probability)
        if total is None:
            raise ValueError("there is no mirroring to predict with; `()` is the scan as it is")
        return total.div_(len(flips)) if len(flips) > 1 else total


def predict_scan(
    passes: Iterable[Forward],
    total: int,
    image: torch.Tensor,
    patch: Sequence[int],
    window: SlidingWindowOptions,
    flips: Sequence[tuple[int, ...]] = ((),),
    progress: Callable[[float], None] = lambda fraction: None,
    heads: Heads = Heads.EXCLUSIVE,
) -> tuple[PosteriorAverage, DrawMasks]:
    """Predicts a scan with every draw of the weights.

    Args:
        passes: the network with each draw; taken one at a time, so that draws can be made when they are needed.
        total: number of passes.
        image: `[C, X, Y, Z]`, on the device of the network.
        patch: size of the window.
        window: how it moves.
        flips: axes of `[X, Y, Z]` to mirror together; each draw averages over the entries.
        progress: called with the share of the draws done.
        heads: what the channels of the network stand for.

    Returns:
        Moments of the probabilities, and the draws' masks (empty for a single draw).
    """
    average, masks = PosteriorAverage(heads), DrawMasks(heads)
    with torch.inference_mode():
        for forward in passes:
            probability = draw_probability(forward, image, patch, window, flips, heads)
            if total > 1:
                masks.add(probability)
            average.add(probability, keep=False)
            # Freed before the next pass, so that only one draw is in memory.
            del probability
            progress(average.count / total)
    return average, masks
