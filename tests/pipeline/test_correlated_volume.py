"""The volume interval of probabilities with correlated errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from pipeline.prediction.correlated_volume import correlated_volume_interval


@given(st.floats(0.05, 0.95), st.floats(0.0, 0.9), st.floats(0.5, 0.99))
def test_closed_form_where_all_voxels_are_alike(probability: float, correlation: float, level: float) -> None:
    low, high = correlated_volume_interval(np.full(200, probability), correlation, 0.01, level)
    far = ndtri((1 + level) / 2)
    ends = [
        2 * ndtr((ndtri(probability) + sign * np.sqrt(correlation) * far) / np.sqrt(1 - correlation))
        for sign in (-1, 1)
    ]
    assert (low, high) == pytest.approx(tuple(ends))


def test_without_correlation_the_volume_is_the_sum_of_the_probabilities() -> None:
    probability = np.random.default_rng(0).random(500)
    assert correlated_volume_interval(probability, 0.0, 2.0) == pytest.approx((2 * probability.sum(),) * 2)


def test_certain_voxels_leave_no_doubt_and_doubtful_ones_more_with_correlation() -> None:
    assert correlated_volume_interval(np.array([1.0, 1.0, 0.0]), 0.5, 1.0) == (2.0, 2.0)
    assert correlated_volume_interval(np.array([]), 0.5, 1.0) == (0.0, 0.0)
    widths = [np.diff(correlated_volume_interval(np.linspace(0.1, 0.9, 50), rho, 1.0))[0] for rho in (0.05, 0.2, 0.6)]
    assert 0 < widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("correlation", [0.05, 0.3])
def test_nine_of_ten_volumes_drawn_with_this_correlation_lie_inside(correlation: float) -> None:
    generator = np.random.default_rng(1)
    probability = generator.beta(0.6, 0.9, 3000)
    low, high = correlated_volume_interval(probability, correlation, 1.0)
    common = generator.standard_normal((1500, 1))
    own = generator.standard_normal((1500, 3000))
    volumes = (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own < ndtri(probability)).sum(axis=1)
    assert volumes.mean() == pytest.approx(probability.sum(), rel=0.02)
    assert np.mean((low <= volumes) & (volumes <= high)) == pytest.approx(0.9, abs=0.025)
