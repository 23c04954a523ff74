"""The mask that expects the best Dice of itself: a threshold of each class, below one half.

The most probable class is the mask that expects the fewest wrong voxels. For the Dice it is too small wherever the
boundary is uncertain: a voxel is worth taking as soon as its probability is above half of the Dice that is reached
(Lipton, Elkan, Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"). That holds for
probabilities that mean what they say; an overconfident network has hardly any between that threshold and one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.most_probable import predicted_classes


class MaskRule(StrEnum):
    """Which mask is made of the probabilities."""

    MOST_PROBABLE = "most_probable"
    """The most probable class of each voxel."""
    EXPECTED_DICE = "expected_dice"
    """Of each class the voxels whose expected Dice is best; sensible for calibrated probabilities."""


def dice_thresholds(foreground: NDArray[np.floating], spacing: Sequence[float]) -> tuple[float, ...]:
    """Finds for each class the threshold whose mask expects the best Dice of itself: half of that Dice.

    Expected is 2 Σ_{v in mask} p_v / (|mask| + Σ_v p_v), as in `expected_dice`: the ratio of expectations, close to the
    expectation of the ratio. Its best mask holds the most probable voxels, so going through them in order finds it.
    Candidates are the most probable mask and the band around it. The threshold then holds everywhere, and by the same
    reasoning an island farther away that is above it belongs to the mask. Several structures are taken one by one;
    where their masks meet, the best for all together may be another.

    Args:
        foreground: `[K, X, Y, Z]` mean probabilities of all classes but the background.
        spacing: mm between voxel centres.

    Returns:
        K thresholds of at most one half; one half itself for a class that is nowhere the most probable.
    """
    chosen = predicted_classes(torch.from_numpy(foreground)).numpy()
    thresholds = []
    for number, own in enumerate(foreground, start=1):
        mask = chosen == number
        if not mask.any():
            thresholds.append(0.5)
            continue
        candidates = np.sort(own[possible_voxels(mask, spacing)].astype(np.float64))[::-1]
        half_dice = np.cumsum(candidates) / (np.arange(1, len(candidates) + 1) + candidates.sum())
        thresholds.append(float(half_dice.max()))
    return tuple(thresholds)


def mask_thresholds(
    rule: MaskRule, foreground: NDArray[np.floating], spacing: Sequence[float]
) -> tuple[float, ...] | None:
    """Returns the thresholds of the rule for these probabilities; `None` for the most probable class."""
    return dice_thresholds(foreground, spacing) if rule is MaskRule.EXPECTED_DICE else None
