from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation.calibration import (
    band_sample,
    brier_score,
    class_probabilities,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from pipeline.prediction.boundary_band import boundary_band

SPACING = (0.5, 1.0, 3.0)
CLAMP = 2.0**-12
probabilities = arrays(np.float64, 40, elements=st.sampled_from([0.0, 0.1, 0.1, 0.5, 0.9, 1.0]))
truths = arrays(bool, 40)


def test_nll_and_brier_of_a_small_case() -> None:
    probability, truth = np.array([0.9, 0.2, 0.5]), np.array([True, False, False])
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.5)) / 3
    assert negative_log_likelihood(probability, truth) == pytest.approx(expected)
    assert brier_score(probability, truth) == pytest.approx((0.01 + 0.04 + 0.25) / 3)
    nothing = np.zeros(0), np.zeros(0, bool)
    for score in (negative_log_likelihood, brier_score, expected_calibration_error):
        assert math.isnan(score(*nothing))


def test_a_calibrated_toy_has_no_calibration_error_but_that_of_sampling() -> None:
    generator = np.random.default_rng(0)
    probability = generator.random(200_000)
    truth = generator.random(200_000) < probability
    assert expected_calibration_error(probability, truth) < 0.004
    # E (p − y)² = E p(1 − p) = 1/6; E entropy of a uniform p = 1/2 nat.
    assert brier_score(probability, truth) == pytest.approx(1 / 6, abs=0.002)
    assert negative_log_likelihood(probability, truth) == pytest.approx(0.5, abs=0.005)


def test_calibration_error_of_a_known_bias() -> None:
    generator = np.random.default_rng(1)
    probability = generator.uniform(0.2, 0.8, 200_000)
    too_high = generator.random(200_000) < probability - 0.15
    assert expected_calibration_error(probability, too_high) == pytest.approx(0.15, abs=0.004)
    assert expected_calibration_error(np.full(10, 0.7), np.arange(10) < 4) == pytest.approx(0.3)


def test_bins_hold_equal_mass() -> None:
    # Two bins of two voxels each: gaps |0.15 − 0.5| and |0.75 − 1| with weight one half.
    probability, truth = np.array([0.1, 0.2, 0.7, 0.8]), np.array([False, True, True, True])
    assert expected_calibration_error(probability, truth, 2) == pytest.approx((0.35 + 0.25) / 2)
    # Four bins: one voxel each.
    assert expected_calibration_error(probability, truth, 4) == pytest.approx((0.1 + 0.8 + 0.3 + 0.2) / 4)


@settings(max_examples=60)
@given(probabilities, truths, st.integers(2, 20), st.randoms(use_true_random=False))
def test_calibration_error_does_not_depend_on_the_order_of_ties(p, y, bins, random) -> None:
    order = list(range(40))
    random.shuffle(order)
    got = expected_calibration_error(p, y, bins)
    assert got == pytest.approx(expected_calibration_error(p[order], y[order], bins), abs=1e-12)
    # Never below the gap of the overall means, never above that of single voxels.
    assert abs(y.mean() - p.mean()) - 1e-12 <= got <= np.abs(y - p).mean() + 1e-12


@settings(max_examples=40)
@given(arrays(bool, (5, 4, 3)), st.floats(0.3, 4.0))
def test_band_against_brute_force_on_anisotropic_grids(mask: np.ndarray, width: float) -> None:
    got = boundary_band(mask, SPACING, width)
    places = np.argwhere(np.ones_like(mask)) * SPACING
    inside = mask.ravel()
    if inside.all() or not inside.any():
        assert not got.any()
        return
    for place, side, near in zip(places, inside, got.ravel(), strict=True):
        distance = np.linalg.norm(places[inside != side] - place, axis=1).min()
        if abs(distance - width) > 1e-9:
            assert near == (distance <= width)


def test_band_of_a_mask_far_from_the_edges_is_the_same_as_in_a_larger_image() -> None:
    small, large = np.zeros((20, 20, 12), bool), np.zeros((60, 60, 40), bool)
    small[8:12, 8:12, 5:7] = True
    large[28:32, 28:32, 15:17] = True
    assert np.array_equal(boundary_band(small, SPACING, 2.5), boundary_band(large, SPACING, 2.5)[20:40, 20:40, 10:22])


def test_probabilities_stay_away_from_zero_and_sum_to_one() -> None:
    stored = np.array([[0.0, 1.0, 0.25], [0.0, 0.0, 0.5]], dtype=np.float16)
    got = class_probabilities(stored, CLAMP)
    assert got.shape == (3, 3)
    np.testing.assert_allclose(got.sum(axis=0), 1.0)
    assert got.min() >= CLAMP / (1 + 2 * CLAMP)
    np.testing.assert_allclose(got[:, 2], [0.25, 0.25, 0.5])
    # A voxel called certain and wrong costs as much as 16 bits can tell, and no more.
    wrong = negative_log_likelihood(class_probabilities(np.ones((1, 1)), CLAMP)[1], np.array([False]))
    assert wrong == pytest.approx(12 * math.log(2), rel=1e-3)


def test_the_default_clamp_is_half_the_spacing_of_16_bits_below_one() -> None:
    assert np.float16(1 - CLAMP) == 1.0
    assert np.float16(1 - 2 * CLAMP) < 1.0


def test_a_sample_holds_the_band_and_counts_what_lies_outside() -> None:
    reference = np.zeros((20, 10, 10), np.int16)
    reference[4:8, 3:7, 3:7] = 1
    prediction = reference.copy()
    prediction[18, 5, 5] = 1
    prediction[8, 5, 5] = 1  # false, but near the boundary
    probability = np.where(prediction == 1, 0.75, 0.125)[None]
    got = band_sample(probability, prediction, reference, (1.0, 1.0, 1.0), case="c", patient="p", band=2.0, clamp=CLAMP)
    assert got.outside == (1,)
    assert got.near.all()
    assert len(got.classes) == boundary_band(reference == 1, (1.0, 1.0, 1.0), 2.0).sum()
    values, truth = got.of_class(1)
    assert truth.sum() == 64
    assert (values == 0.75).sum() == 65


def test_without_a_boundary_there_is_no_sample_but_false_positives_count() -> None:
    reference = np.zeros((4, 4, 4), np.int16)
    prediction = np.ones_like(reference)
    got = band_sample(np.ones((1, 4, 4, 4)), prediction, reference, (1.0, 1.0, 1.0), case="c", patient="p", band=5.0,
                      clamp=CLAMP)  # fmt: skip
    assert got.outside == (64,)
    assert len(got.classes) == 0


def test_reliability_curve_weighs_patients_alike() -> None:
    small = np.array([0.95]), np.array([False])
    large = np.full(99, 0.95), np.ones(99, bool)
    (got,) = reliability_curve([small, large, (np.zeros(0), np.zeros(0, bool))], 10)
    assert (got.low, got.high, got.share) == (0.9, 1.0, pytest.approx(1.0))
    assert got.probability == pytest.approx(0.95)
    assert got.frequency == pytest.approx(0.5)
    certain = reliability_curve([(np.array([0.0, 1.0]), np.array([False, True]))], 10)
    assert [(b.low, b.share, b.frequency) for b in certain] == [(0.0, 0.5, 0.0), (0.9, 0.5, 1.0)]
