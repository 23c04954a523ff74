"""Means over patients × repeats: against the closed form, and how often nothing is taken for something."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.crossed_effects import crossed_mean
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_P, Resamples, paired_difference, wilcoxon_p


def test_against_sums_of_squares_by_hand() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])
    # Mean squares: patients 15.5 (means 1.5, 3.5, 7), repeats 6, error 1.5.
    got = crossed_mean(values)
    assert got.mean == 4.0
    assert got.error == pytest.approx(np.sqrt((15.5 + 6 - 1.5) / 6))
    assert got.degrees == pytest.approx(20**2 / (15.5**2 / 2 + 6**2 / 1 + 1.5**2 / 2))
    low, high = got.interval(0.95)
    assert (low + high) / 2 == pytest.approx(4.0)
    assert got.p_value == pytest.approx(2 * stats.t.sf(4 / got.error, got.degrees))


def test_repeats_that_differ_most_leave_their_degrees_of_freedom() -> None:
    noise = 1e-6 * np.random.default_rng(0).normal(size=(40, 3))
    got = crossed_mean(np.array([[-0.1, 0.0, 0.2]]) + noise)
    assert got.degrees == pytest.approx(2, rel=1e-3)
    assert got.error == pytest.approx(np.std([-0.1, 0, 0.2], ddof=1) / np.sqrt(3), rel=1e-3)


def test_without_any_spread() -> None:
    assert crossed_mean(np.zeros((5, 2))).p_value == 1.0
    same = crossed_mean(np.full((5, 2), 0.25))
    assert (same.interval(0.95), same.p_value) == ((0.25, 0.25), 0.0)


@pytest.mark.parametrize("values", [np.zeros((1, 3)), np.zeros((3, 1)), np.array([[1.0, np.nan], [1, 2]])])
def test_refuses_what_has_no_error(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="two of each or more and no gap"):
        crossed_mean(values)


@pytest.mark.parametrize(("repeats", "most"), [(3, 0.1), (10, 0.08)])
def test_nothing_is_seldom_taken_for_something_where_repeats_differ(repeats: int, most: float) -> None:
    generator, p_values, of_patients = np.random.default_rng(4), [], []
    for _ in range(400):
        values = 0.01 * generator.normal(size=(40, 1)) + 0.01 * generator.normal(size=(40, repeats))
        values = values + 0.008 * generator.normal(size=(1, repeats))
        p_values.append(crossed_mean(values).p_value)
        of_patients.append(wilcoxon_p(values.mean(axis=1)) or 0)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < most
    # The repeats taken for all there are.
    assert np.mean(np.array(of_patients) < 0.05) > 0.2


def test_arms_are_compared_over_draws_of_training_patients_where_there_are_several() -> None:
    generator = np.random.default_rng(2)
    second = generator.uniform(0.5, 0.9, size=(14, 3))
    first = second + np.array([[0.0, 0.02, 0.07]]) + 0.001 * generator.normal(size=(14, 3))
    draws = Resamples.draw(14, 3, resamples=200, seed=0)
    got, model = paired_difference(first, second, draws), crossed_mean(first - second)
    assert (got.interval.low, got.interval.high) == model.interval(0.95)
    assert got.p_value == model.p_value > 0.1
    # One draw can be judged alone.
    [alone] = [paired_difference(first[:, 1:2], second[:, 1:2], Resamples.draw(14, 1, resamples=200, seed=0))]
    assert alone.p_value == wilcoxon_p((first - second)[:, 1])
    # A patient who is missing in a repeat is left out.
    first[0, 1] = np.nan
    whole = paired_difference(first, second, draws)
    assert (whole.patients, whole.interval.mean) == (13, pytest.approx((first - second)[1:].mean()))
    assert whole.p_value is not None
    first[1:4, 0] = np.nan
    assert paired_difference(first, second, draws).patients == 10 < FEWEST_PATIENTS_FOR_P
    assert paired_difference(first, second, draws).p_value is None
