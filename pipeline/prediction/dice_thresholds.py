"""The mask with the best expected Dice: a threshold below one half for each class.

The most probable class gives the fewest expected wrong voxels. For Dice, that mask is too small where the boundary is
uncertain: it pays to include a voxel as soon as its probability exceeds half of the optimal Dice (Lipton, Elkan,
Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"). This holds for calibrated
probabilities; an overconfident network has hardly any between that threshold and one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from models.heads import Heads
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.most_probable import predicted_classes


class MaskRule(StrEnum):
    """How a mask is made from probabilities."""

    MOST_PROBABLE = "most_probable"
    """The most probable class of each voxel."""
    EXPECTED_DICE = "expected_dice"
    """For each class, the mask with the best expected Dice; sensible for calibrated probabilities."""


def dice_thresholds(
    foreground: NDArray[np.floating], spacing: Sequence[float], heads: Heads = Heads.EXCLUSIVE
) -> tuple[float, ...]:
    """Finds for each class the threshold whose mask has the best expected Dice; it is half of that Dice.

    The expected Dice is 2 Σ_{v in mask} p_v / (|mask| + Σ_v p_v), as in `expected_dice`: the ratio of expectations,
    close to the expectation of the ratio. The best mask holds the most probable voxels, so a pass over them in order
    finds it. Candidates are the most probable mask and the band around it. The threshold then applies everywhere: an
    island farther away that exceeds it belongs to the mask for the same reason. Structures are treated one by one;
    where their masks meet, the joint optimum may differ.

    Args:
        foreground: `[K, X, Y, Z]` mean probabilities of all classes but the background.
        spacing: mm between voxel centres.
        heads: whether the structures overlap.

    Returns:
        K thresholds of at most one half; exactly one half for a class that is nowhere the most probable.
    """
    chosen = predicted_classes(torch.from_numpy(foreground), heads=heads).numpy()
    thresholds = []
    for number, own in enumerate(foreground, start=1):
        mask = heads.belongs(chosen, number)
        if not mask.any():
            thresholds.append(0.5)
            continue
        candidates = np.sort(own[possible_voxels(mask, spacing)].astype(np.float64))[::-1]
        half_dice = np.cumsum(candidates) / (np.arange(1, len(candidates) + 1) + candidates.sum())
        thresholds.append(float(half_dice.max()))
    return tuple(thresholds)


def mask_thresholds(
    rule: MaskRule, foreground: NDArray[np.floating], spacing: Sequence[float], heads: Heads = Heads.EXCLUSIVE
) -> tuple[float, ...] | None:
    """Returns the thresholds of the rule for these probabilities; `None` for the most probable class."""
    return dice_thresholds(foreground, spacing, heads) if rule is MaskRule.EXPECTED_DICE else None
