from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.volume_interval import coverage_interval, volume_interval


def test_of_39_draws_the_second_and_the_38th() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1.0, 40.0))
    got = volume_interval(draws)
    assert got is not None
    assert (got.low, got.high, got.width) == (2.0, 38.0, 36.0)
    assert got.nominal == pytest.approx(0.9)
    assert got.covers(2.0)
    assert not got.covers(1.99)


@pytest.mark.parametrize(
    ("draws", "rank", "nominal"), [(19, 1, 0.9), (30, 1, 29 / 31), (99, 5, 0.9), (100, 5, 91 / 101)]
)
def test_ranks_of_other_numbers_of_draws(draws: int, rank: int, nominal: float) -> None:
    got = volume_interval(np.arange(1.0, draws + 1))
    assert got is not None
    assert (got.low, got.high) == (rank, draws + 1 - rank)
    assert got.nominal == pytest.approx(nominal)


def test_below_19_draws_there_is_none() -> None:
    assert volume_interval(np.arange(18.0)) is None
    assert volume_interval(np.arange(8.0)) is None
    assert volume_interval(np.arange(9.0), level=0.8) is not None


@given(st.integers(1, 400), st.floats(0.5, 0.99))
def test_no_interval_promises_less_than_asked_and_none_narrower_would_do(count: int, level: float) -> None:
    got = volume_interval(np.arange(1.0, count + 1), level)
    if got is None:
        assert (count - 1) / (count + 1) < level + 1e-9
    else:
        assert got.nominal >= level - 1e-9
        assert got.nominal - 2 / (count + 1) < level + 1e-9


@pytest.mark.parametrize("draws", [19, 39, 60])
def test_coverage_of_exchangeable_draws_is_nominal(draws: int) -> None:
    generator = np.random.default_rng(1)
    centres = generator.normal(10, 3, 4000)
    covered = []
    for centre in centres:
        got = volume_interval(generator.normal(centre, 1, draws))
        assert got is not None
        covered.append(got.covers(generator.normal(centre, 1)))
    assert np.mean(covered) == pytest.approx(got.nominal, abs=0.016)


@pytest.mark.parametrize(("covered", "trials"), [(0, 5), (5, 5), (27, 30), (1, 12)])
def test_binomial_interval_is_that_of_scipy(covered: int, trials: int) -> None:
    got = coverage_interval(covered, trials)
    expected = stats.binomtest(covered, trials).proportion_ci(0.95, method="exact")
    assert got.mean == covered / trials
    assert (got.low, got.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_mean_over_repeats_lies_between_whole_numbers() -> None:
    low, between, high = (coverage_interval(k, 20) for k in (17, 17.5, 18))
    assert low.low < between.low < high.low
    assert low.high < between.high < high.high
    assert math.isnan(coverage_interval(0, 0).mean)
