"""Overlap of a predicted and a reference mask, and the policies for empty masks.

Sources: Dice 1945 and Jaccard 1912 in their voxel-count forms, `2TP / (2TP + FP + FN)` and `TP / (TP + FP + FN)`; the
need for a stated policy on empty masks follows Maier-Hein et al., "Metrics reloaded", Nature Methods 21 (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class EmptyMaskPolicy(StrEnum):
    """What a metric gives where the reference is empty.

    A reference that is present and was missed altogether (an empty prediction) gets the worst value of the metric under
    every policy, so that a missed structure never vanishes from an average. The worst value is 0 for an overlap and the
    diagonal of the image for a distance in mm. Metrics give best and worst value themselves; the policy says what is
    left out.
    """

    REWARD_AGREEMENT = "reward_agreement"
    """Both empty: the best value. Reference empty, prediction not: the worst value."""
    SKIP_AGREEMENT = "skip_agreement"
    """Both empty: undefined, left out of averages and counted. Reference empty, prediction not: the worst value."""
    SKIP_EMPTY_REFERENCE = "skip_empty_reference"
    """Reference empty: undefined whatever the prediction, left out of averages and counted (as in MONAI)."""

    def leaves_out(self, empty: EmptyMask) -> bool:
        """Whether a case with such masks has no value."""
        if self is EmptyMaskPolicy.SKIP_EMPTY_REFERENCE:
            return empty in (EmptyMask.BOTH, EmptyMask.REFERENCE)
        return self is EmptyMaskPolicy.SKIP_AGREEMENT and empty is EmptyMask.BOTH


class EmptyMask(StrEnum):
    """Which of two masks is empty."""

    NEITHER = "neither"
    """Prediction and reference both have voxels: no policy is needed."""
    BOTH = "both"
    """The structure is absent and nothing was predicted."""
    REFERENCE = "reference"
    """The structure is absent, but some was predicted."""
    PREDICTION = "prediction"
    """The structure is present and was missed altogether."""


def which_empty(reference: int, predicted: int) -> EmptyMask:
    """Returns which of two masks is empty, from what was counted in each (voxels, lesions)."""
    if reference:
        return EmptyMask.NEITHER if predicted else EmptyMask.PREDICTION
    return EmptyMask.REFERENCE if predicted else EmptyMask.BOTH


@dataclass(frozen=True)
class VoxelCounts:
    """Voxels by agreement of prediction and reference.

    Attributes:
        true_positive: in both.
        false_positive: in the prediction alone.
        false_negative: in the reference alone.
    """

    true_positive: int
    false_positive: int
    false_negative: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.true_positive + self.false_positive

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.true_positive + self.false_negative

    @property
    def empty(self) -> EmptyMask:
        """Which of the two masks is empty."""
        return which_empty(self.reference, self.predicted)


def count_voxels(prediction: Mask, reference: Mask) -> VoxelCounts:
    """Counts the voxels of two boolean masks of one shape.

    Args:
        prediction: boolean, `[X, Y, Z]` (any number of axes will do).
        reference: boolean, of the same shape.

    Returns:
        True positives, false positives and false negatives.

    Raises:
        ValueError: the shapes differ, or an array is not boolean (a label map or a probability would be miscounted).
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}, the reference {reference.shape}")
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"masks are boolean, not {prediction.dtype} and {reference.dtype}")
    both = int(np.count_nonzero(prediction & reference))
    return VoxelCounts(both, int(np.count_nonzero(prediction)) - both, int(np.count_nonzero(reference)) - both)


def dice(counts: VoxelCounts) -> float:
    """Returns the Dice similarity coefficient (DSC), `2TP / (2TP + FP + FN)`, in [0, 1]; 1 where both are empty."""
    if counts.empty is EmptyMask.BOTH:
        return 1.0
    return 2 * counts.true_positive / (counts.predicted + counts.reference)


def iou(counts: VoxelCounts) -> float:
    """Returns the intersection over union (Jaccard index), `TP / (TP + FP + FN)`; 1 where both are empty."""
    if counts.empty is EmptyMask.BOTH:
        return 1.0
    return counts.true_positive / (counts.true_positive + counts.false_positive + counts.false_negative)


def relative_volume_error(counts: VoxelCounts) -> float:
    """Returns `|predicted − reference| / reference` of the volumes, at least 0.

    It has no largest value. A missed structure gives 1 (all of its volume is missing); where the reference is empty the
    error is taken relative to the prediction, which gives 1 too. Where both are empty it is 0.
    """
    if counts.empty is EmptyMask.BOTH:
        return 0.0
    return abs(counts.predicted - counts.reference) / (counts.reference or counts.predicted)
