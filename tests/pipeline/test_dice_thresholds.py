"""The mask with the best expected Dice."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from data.volume import Volume
from pipeline.prediction.dice_thresholds import MaskRule, dice_thresholds, mask_thresholds
from pipeline.prediction.most_probable import predicted_classes
from pipeline.prediction.native_mask import native_mask

SPACING = (1.0, 1.0, 1.0)


@given(st.lists(st.floats(0.01, 0.99), min_size=5, max_size=5))
def test_no_other_mask_expects_a_better_dice(values: list[float]) -> None:
    # One voxel is surely foreground, so there is a mask, and the others lie within 5 mm of it.
    probability = np.array([0.99, *values])
    (threshold,) = dice_thresholds(probability.reshape(1, 6, 1, 1), SPACING)

    def expected(mask: np.ndarray) -> float:
        return float(2 * probability[mask].sum() / (mask.sum() + probability.sum()))

    best = max(expected(np.array(bits, dtype=bool)) for bits in product([False, True], repeat=6) if any(bits))
    assert threshold == pytest.approx(best / 2)
    assert expected(probability > threshold) == pytest.approx(best)


def test_far_from_the_structure_the_threshold_is_found_without_and_holds_nevertheless() -> None:
    foreground = np.full((1, 40, 6, 6), 0.001)
    foreground[:, 4:8] = 0.8
    (alone,) = dice_thresholds(foreground, SPACING)
    foreground[:, 30:34] = 0.45
    assert dice_thresholds(foreground, SPACING) == (alone,)
    assert alone < 0.45
    assert predicted_classes(torch.from_numpy(foreground), (alone,))[31].all()


def test_a_blurred_boundary_is_drawn_further_out_and_a_sharp_one_stays() -> None:
    edge = np.abs(np.arange(40) - 19.5)
    for width, grows in ((0.01, False), (3.0, True)):
        profile = expit((8 - edge) / width)
        foreground = np.broadcast_to(profile[:, None, None], (40, 6, 6))[None].astype(np.float32)
        thresholds = dice_thresholds(foreground, SPACING)
        sizes = [int(predicted_classes(torch.tensor(foreground), t).sum()) for t in (None, thresholds)]
        assert (sizes[1] > sizes[0]) == grows
        assert thresholds[0] <= 0.5


def test_it_wins_where_probabilities_are_true() -> None:
    generator = np.random.default_rng(0)
    probability = np.clip(np.abs(np.arange(24) - 11.5)[:, None, None] * -0.1 + 0.9, 0.02, 0.98) * np.ones((24, 8, 8))
    (threshold,) = dice_thresholds(probability[None], SPACING)
    gains = []
    for _ in range(50):
        truth = generator.random(probability.shape) < probability
        dice = [2 * (truth & m).sum() / (truth.sum() + m.sum()) for m in (probability > threshold, probability > 0.5)]
        gains.append(dice[0] - dice[1])
    assert np.mean(gains) > 0.005
    assert np.mean(np.array(gains) > 0) > 0.9


def test_a_class_that_is_nowhere_the_most_probable_stays_absent() -> None:
    foreground = np.full((2, 6, 6, 6), 0.1, np.float32)
    foreground[0, 2:4] = 0.8
    thresholds = dice_thresholds(foreground, SPACING)
    assert thresholds[1] == 0.5
    assert set(predicted_classes(torch.from_numpy(foreground), thresholds).unique().tolist()) == {0, 1}


def test_of_two_classes_the_one_furthest_above_its_threshold_is_taken() -> None:
    foreground = np.array([[0.44, 0.30, 0.2, 0.45], [0.40, 0.35, 0.2, 0.1]], np.float32).reshape(2, 4, 1, 1)
    thresholds = (0.4, 0.25)
    expected = [2, 2, 0, 1]
    assert predicted_classes(torch.from_numpy(foreground), thresholds).flatten().tolist() == expected
    maps = [Volume(own, np.eye(4)) for own in foreground]
    assert native_mask(iter(maps), [7, 9], thresholds).array.flatten().tolist() == [[0, 7, 9][k] for k in expected]


def test_the_most_probable_class_needs_no_thresholds() -> None:
    foreground = np.full((1, 4, 4, 4), 0.6)
    assert mask_thresholds(MaskRule.MOST_PROBABLE, foreground, SPACING) is None
    assert mask_thresholds(MaskRule.EXPECTED_DICE, foreground, SPACING) == dice_thresholds(foreground, SPACING)
