from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.case_review import predicted_uncertainty, rank_correlation
from pipeline.evaluation.statistics import Resamples

SPACING = (1.0, 1.0, 2.0)


def test_uncertainty_is_measured_near_the_prediction_and_needs_no_reference() -> None:
    probability = np.full((1, 20, 8, 8), 2.0**-12)
    probability[0, 3:6, 2:6, 2:6] = 0.75
    prediction = (probability[0] > 0.5).astype(np.int16)
    information = np.zeros((20, 8, 8))
    information[15:] = 1.0  # far away, so it must not count
    got = predicted_uncertainty(probability, prediction, information, 1, SPACING, band=1.0, clamp=2.0**-12)
    # Within 1 mm: the two outer slabs and the rim of the middle one, and as many voxels outside.
    sure = -(2.0**-12 * math.log(2.0**-12) + (1 - 2.0**-12) * math.log(1 - 2.0**-12))
    unsure = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert sure < got.entropy < unsure
    assert got.mutual_information == 0.0
    assert got.expected_dice == pytest.approx(2 * 36 / (48 + 36), abs=0.01)
    alone = predicted_uncertainty(probability, prediction, None, 1, SPACING, band=1.0, clamp=2.0**-12)
    assert math.isnan(alone.mutual_information)
    nothing = predicted_uncertainty(probability, np.zeros_like(prediction), None, 1, SPACING, band=1.0, clamp=2.0**-12)
    assert math.isnan(nothing.entropy)
    assert nothing.expected_dice == 0.0


def test_correlation_is_spearmans_within_each_repeat() -> None:
    generator = np.random.default_rng(1)
    quality = generator.random((14, 3))
    doubt = -quality + generator.normal(0, 0.2, quality.shape)
    got = rank_correlation(doubt, quality, Resamples.draw(14, 3, resamples=400, seed=0))
    expected = [stats.spearmanr(doubt[:, r], quality[:, r]).statistic for r in range(3)]
    assert got.mean == pytest.approx(np.mean(expected))
    assert got.low < got.mean < got.high < 0


def test_resampled_correlations_are_those_of_the_drawn_patients() -> None:
    generator = np.random.default_rng(2)
    quality, doubt = generator.random((9, 1)), generator.random((9, 1))
    draws = Resamples.draw(9, 1, resamples=60, seed=1)
    found = [
        stats.spearmanr(np.repeat(doubt[:, 0], c.astype(int)), np.repeat(quality[:, 0], c.astype(int))).statistic
        for c in draws.patients
    ]
    got = rank_correlation(doubt, quality, draws)
    assert (got.low, got.high) == (pytest.approx(np.quantile(found, 0.025)), pytest.approx(np.quantile(found, 0.975)))


def test_an_empty_prediction_is_the_most_uncertain() -> None:
    quality = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.0]])
    doubt = np.array([[0.1], [0.2], [0.3], [0.4], [0.5], [np.nan]])
    draws = Resamples.draw(6, 1, resamples=100, seed=0)
    assert rank_correlation(doubt, quality, draws).mean == pytest.approx(-1.0)
    # A case that was not measured at all is left out instead.
    quality[5] = np.nan
    doubt[4] = 0.35
    assert rank_correlation(doubt, quality, draws).mean == pytest.approx(-0.9)


def test_nothing_to_correlate_gives_nothing() -> None:
    draws = Resamples.draw(6, 1, resamples=50, seed=0)
    quality = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4]])
    doubt = np.random.default_rng(0).random((6, 1))
    assert math.isfinite(rank_correlation(doubt, quality, draws).mean)
    assert math.isnan(rank_correlation(np.full((6, 1), np.nan), quality, draws).mean)
    assert math.isnan(rank_correlation(np.ones((6, 1)), quality, draws).mean)
    quality[:2] = np.nan
    assert math.isnan(rank_correlation(doubt, quality, draws).mean)
