from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.statistics import (
    FEWEST_PATIENTS_FOR_P,
    Resamples,
    crossed_interval,
    holm,
    paired_difference,
    patients_drawn,
    wilcoxon_p,
)
from pipeline.evaluation.worst_patients import patient_means, worst_tenth


def test_undefined_values_are_left_out_and_nothing_defined_gives_nan() -> None:
    draws = Resamples.draw(3, 1, resamples=100, seed=0)
    assert crossed_interval(np.array([[0.2], [math.nan], [0.4]]), draws).mean == pytest.approx(0.3)
    empty = crossed_interval(np.full((3, 1), math.nan), draws)
    assert math.isnan(empty.mean)
    assert math.isnan(empty.low)


def test_crossed_means_equal_the_double_sum() -> None:
    draws = Resamples.draw(4, 3, resamples=50, seed=1)
    values = np.random.default_rng(0).random((4, 3))
    values[1, 2] = np.nan
    expected = []
    for p, r in zip(draws.patients, draws.repeats, strict=True):
        weight = np.outer(p, r) * np.isfinite(values)
        expected.append(np.nansum(weight * values) / weight.sum() if weight.sum() else np.nan)
    np.testing.assert_allclose(draws.means(values), expected)


def test_draws_are_counts_and_depend_on_the_seed_alone() -> None:
    first, again, other = (Resamples.draw(7, 2, resamples=30, seed=s) for s in (5, 5, 6))
    assert np.array_equal(first.patients, again.patients)
    assert not np.array_equal(first.patients, other.patients)
    assert (first.patients.sum(axis=1) == 7).all()
    assert (first.repeats.sum(axis=1) == 2).all()


def test_interval_matches_the_theory_of_the_mean() -> None:
    values = np.random.default_rng(2).normal(0.7, 0.1, size=(400, 1))
    got = crossed_interval(values, Resamples.draw(400, 1, resamples=4000, seed=0))
    half = 1.96 * values.std() / 20
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_crossing_repeats_widens_the_interval_when_repeats_differ() -> None:
    patients = np.random.default_rng(3).normal(0, 0.01, size=(30, 1))
    steady, shaky = patients + np.zeros((1, 4)), patients + np.array([[-0.2, -0.1, 0.1, 0.2]])
    draws = Resamples.draw(30, 4, resamples=1000, seed=0)
    narrow, wide = (crossed_interval(v, draws) for v in (steady, shaky))
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)


def test_pairing_removes_what_arms_share() -> None:
    generator = np.random.default_rng(4)
    base = generator.normal(0.6, 0.2, size=(20, 2))
    draws = Resamples.draw(20, 2, resamples=1000, seed=0)
    got = paired_difference(base + 0.05, base, draws)
    assert got.patients == 20
    assert got.interval.low == pytest.approx(0.05)
    assert got.interval.high == pytest.approx(0.05)
    assert got.p_value is not None
    assert got.p_value < 0.001


def test_difference_uses_only_cells_measured_in_both() -> None:
    first, second = np.full((7, 1), 0.9), np.full((7, 1), 0.8)
    first[0], second[1] = np.nan, np.nan
    draws = Resamples.draw(7, 1, resamples=200, seed=0)
    got = paired_difference(first, second, draws)
    assert got.patients == 5
    assert got.interval.mean == pytest.approx(0.1)
    assert got.p_value is None
    # One patient fewer, and there is no difference to speak of.
    second[2] = np.nan
    got = paired_difference(first, second, draws)
    assert got.patients == 4
    assert math.isnan(got.interval.mean)
    assert got.p_value is None


def test_no_p_value_with_few_patients() -> None:
    assert wilcoxon_p(np.arange(1.0, FEWEST_PATIENTS_FOR_P)) is None
    assert wilcoxon_p(np.arange(1.0, FEWEST_PATIENTS_FOR_P + 1)) == pytest.approx(2 / 2**12)
    assert wilcoxon_p(np.zeros(15)) == 1.0


@settings(max_examples=15)
@given(st.lists(st.integers(-3, 3), min_size=12, max_size=12).filter(any))
def test_ties_and_zeros_against_every_sign_pattern(differences: list[int]) -> None:
    values = np.array(differences, dtype=float)
    ranks = stats.rankdata(np.abs(values))[values != 0]
    centre = ranks.sum() / 2
    observed = abs(ranks[values[values != 0] > 0].sum() - centre)
    patterns = itertools.product((0, 1), repeat=len(ranks))
    share = np.mean([abs(np.dot(p, ranks) - centre) >= observed for p in patterns])
    assert wilcoxon_p(values) == pytest.approx(share)


def test_holm_of_a_textbook_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.5]) == [1.0, None, 1.0]


def test_refuses_values_of_another_size_than_the_draws() -> None:
    with pytest.raises(ValueError, match="draws are of"):
        crossed_interval(np.zeros((6, 1)), Resamples.draw(7, 1, resamples=10, seed=0))
    with pytest.raises(ValueError, match="resample"):
        Resamples.draw(0, 1, resamples=10, seed=0)


def test_worst_tenth_is_the_mean_of_the_lowest_patients() -> None:
    values = np.random.default_rng(6).permutation(np.arange(50.0))[:, None] + np.array([[-1.0, 1.0]])
    got = worst_tenth(values, Resamples.draw(50, 2, resamples=500, seed=0))
    assert got.mean == pytest.approx((0 + 1 + 2 + 3 + 4) / 5)
    assert got.low < got.mean < got.high
    assert got.high < 15


def test_worst_tenth_of_ten_patients_is_one_and_a_patient_never_measured_is_none_of_them() -> None:
    values = np.arange(1.0, 12.0)[:, None]
    values[0] = np.nan
    got = worst_tenth(values, Resamples.draw(11, 1, resamples=300, seed=0))
    assert got.mean == 2.0
    # A bootstrap of the worst one never gets worse than it: that is no interval.
    assert math.isnan(got.low)
    assert math.isnan(worst_tenth(values * np.nan, Resamples.draw(11, 1, resamples=10, seed=0)).mean)


def test_drawn_patients_come_as_often_as_they_were_drawn_with_their_drawn_repeats() -> None:
    draws = Resamples.draw(5, 3, resamples=20, seed=2)
    values = np.random.default_rng(7).random((5, 3))
    values[2, 1] = np.nan
    got = patient_means(values, draws)
    for row, patients, repeats in zip(got, draws.patients, draws.repeats, strict=True):
        weights = repeats * np.isfinite(values)
        means = np.nansum(weights * values, axis=1) / np.where(weights.sum(axis=1), weights.sum(axis=1), np.nan)
        np.testing.assert_allclose(np.sort(row), np.sort(np.repeat(means, patients.astype(int))))


def test_intervals_of_a_cross_validation_are_as_wide_as_shared_training_patients_make_them() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, (60, 1))
    plain = crossed_interval(values, Resamples.draw(60, 1, resamples=4000, seed=0))
    folded = crossed_interval(values, Resamples.draw(60, 1, resamples=4000, seed=0, folds=5))
    # Nadeau and Bengio 2003: 1 / K + n2 / n1 in place of 1 / K.
    factor = (1 / 5 + 1 / 4) / (1 / 5)
    assert patients_drawn(60, 5) == int(60 / factor)
    assert folded.mean == plain.mean
    assert (folded.high - folded.low) / (plain.high - plain.low) == pytest.approx(np.sqrt(factor), rel=0.06)
    assert patients_drawn(5, 5) == 2
    assert patients_drawn(60, None) == 60


def test_cross_validation_has_no_p_value() -> None:
    first = np.random.default_rng(0).uniform(0, 1, (20, 1))
    draws = Resamples.draw(20, 1, resamples=200, seed=0)
    assert paired_difference(first, first * 0.9, draws).p_value is not None
    folded = Resamples.draw(20, 1, resamples=200, seed=0, folds=4)
    assert paired_difference(first, first * 0.9, folded).p_value is None
    assert folded.patient_indices().shape == (200, patients_drawn(20, 4))
