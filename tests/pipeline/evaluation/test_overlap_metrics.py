from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays
from monai.metrics import DiceMetric

from pipeline.evaluation.case_row import METRICS
from pipeline.metrics.mask_pair import MaskPair
from pipeline.metrics.overlap import (
    EmptyMask,
    EmptyMaskPolicy,
    VoxelCounts,
    count_voxels,
    dice,
    iou,
    relative_volume_error,
)

UNIT = (1.0, 1.0, 1.0)
masks = arrays(bool, (3, 4, 2))


def test_counts_and_overlap_of_a_small_case() -> None:
    prediction = np.array([[[1, 1, 1, 0, 0]]], dtype=bool)
    reference = np.array([[[0, 1, 1, 1, 1]]], dtype=bool)
    counts = count_voxels(prediction, reference)
    assert counts == VoxelCounts(true_positive=2, false_positive=1, false_negative=2)
    assert dice(counts) == pytest.approx(4 / 7)
    assert iou(counts) == pytest.approx(2 / 5)


@given(masks, masks)
def test_overlap_equals_set_arithmetic(prediction: np.ndarray, reference: np.ndarray) -> None:
    p, r = ({tuple(i) for i in np.argwhere(m)} for m in (prediction, reference))
    counts = count_voxels(prediction, reference)
    assert (counts.true_positive, counts.false_positive, counts.false_negative) == (len(p & r), len(p - r), len(r - p))
    if p and r:
        assert dice(counts) == pytest.approx(2 * len(p & r) / (len(p) + len(r)))
        assert iou(counts) == pytest.approx(len(p & r) / len(p | r))
        assert dice(counts) == pytest.approx(2 * iou(counts) / (1 + iou(counts)))


@given(masks, masks)
def test_overlap_is_symmetric(a: np.ndarray, b: np.ndarray) -> None:
    assert dice(count_voxels(a, b)) == dice(count_voxels(b, a))
    assert dice(count_voxels(a, a)) == 1.0


@pytest.mark.parametrize(
    ("policy", "both", "reference_empty"),
    [
        (EmptyMaskPolicy.REWARD_AGREEMENT, 1.0, 0.0),
        (EmptyMaskPolicy.SKIP_AGREEMENT, math.nan, 0.0),
        (EmptyMaskPolicy.SKIP_EMPTY_REFERENCE, math.nan, math.nan),
    ],
)
def test_policy_table(policy: EmptyMaskPolicy, both: float, reference_empty: float) -> None:
    none, some = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    for metric in (METRICS["dice"], METRICS["iou"]):
        assert metric.of(MaskPair(none, none, UNIT), policy) == pytest.approx(both, nan_ok=True)
        assert metric.of(MaskPair(some, none, UNIT), policy) == pytest.approx(reference_empty, nan_ok=True)


def test_a_missed_structure_scores_zero_and_no_policy_leaves_it_out() -> None:
    counts = count_voxels(np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool))
    assert counts.empty is EmptyMask.PREDICTION
    assert not any(policy.leaves_out(counts.empty) for policy in EmptyMaskPolicy)
    assert dice(counts) == 0.0
    assert iou(counts) == 0.0


def test_refuses_other_shapes_and_label_maps() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="shape"):
        count_voxels(mask, np.ones((1, 2, 2), bool))
    with pytest.raises(ValueError, match="boolean"):
        count_voxels(mask.astype(np.int16), mask)


@given(masks.filter(np.any), masks.filter(np.any))
def test_dice_equals_monai_where_no_mask_is_empty(prediction: np.ndarray, reference: np.ndarray) -> None:
    first, second = (torch.from_numpy(m)[None, None].float() for m in (prediction, reference))
    expected = DiceMetric(include_background=True)(first, second).item()
    assert dice(count_voxels(prediction, reference)) == pytest.approx(expected, abs=1e-6)


def test_relative_volume_error_of_a_small_case_and_of_a_missed_structure() -> None:
    assert relative_volume_error(VoxelCounts(2, 1, 2)) == pytest.approx(1 / 4)
    assert relative_volume_error(VoxelCounts(4, 8, 0)) == pytest.approx(2.0)
    assert relative_volume_error(VoxelCounts(0, 0, 5)) == 1.0
    assert relative_volume_error(VoxelCounts(0, 5, 0)) == 1.0
    assert relative_volume_error(VoxelCounts(0, 0, 0)) == 0.0
