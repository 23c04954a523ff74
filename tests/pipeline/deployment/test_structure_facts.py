"""Intervals and expected Dice of structures."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from data.volume import Volume
from pipeline.deployment.arm_model import DicePairs
from pipeline.deployment.dice_calibration import LEAST_CASES, LEAST_LINE, DiceCalibration, DiceEstimate, unchecked
from pipeline.deployment.structure_facts import LEAST_DRAWS, structure_facts, volume_interval
from pipeline.inference.dice_thresholds import MaskRule
from pipeline.inference.expected_dice import DrawMasks
from pipeline.inference.posterior_average import PosteriorAverage
from pipeline.inference.reading import ReadingOptions
from pipeline.inference.stored_prediction import read_average
from pipeline.training.cached_case import CachedCase


def test_the_interval_of_nineteen_draws_is_their_range() -> None:
    sizes = list(range(100, 100 + LEAST_DRAWS))
    assert volume_interval(sizes, 0.5) == (50.0, 59.0)
    assert volume_interval(sizes[1:], 0.5) is None


def test_the_interval_holds_a_new_draw_nine_times_in_ten() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(4000):
        draws = generator.gamma(5, 100, 25).astype(int).tolist()
        low, high = volume_interval(draws, 1.0) or (math.nan, math.nan)
        inside += low <= generator.gamma(5, 100) <= high
    assert inside / 4000 == pytest.approx(0.9, abs=0.02)


def test_numbers_of_a_structure() -> None:
    probability = torch.full((3, 2, 2, 2), 0.1)
    probability[0] = 0.8
    probability[:, 0] = torch.tensor([0.2, 0.7, 0.1])[:, None, None]
    average, draws = PosteriorAverage(), DrawMasks()
    for _ in range(LEAST_DRAWS):
        average.add(probability)
        draws.add(probability)
    mask = Volume(np.zeros((2, 2, 2), np.uint8), np.diag([10.0, 10.0, 10.0, 1.0]))
    mask.array[0] = 4
    line = DiceCalibration(cases=9, slope=0.5, intercept=0.1, residual=0.05)
    facts = structure_facts(
        mask, {"core": 4, "rim": 2}, average, draws, (5.0, 5.0, 5.0), 2.0, {"core": line, "rim": line}
    )
    core, rim = facts["core"], facts["rim"]
    assert (core["label"], core["voxels"], core["volume_ml"]) == (4, 4, pytest.approx(4.0))
    assert core["volume_90_percent_ml"] == [8.0, 8.0]
    expected = 2 * 4 * 0.7 / (4 + 4 * 0.7 + 4 * 0.1)
    assert core["expected_dice"] == pytest.approx(expected, rel=1e-5)
    assert core["calibrated_dice"]["dice"] == pytest.approx(0.1 + 0.5 * expected, rel=1e-5)
    assert core["dice_between_draws"] == 1.0
    assert rim["voxels"] == 0
    # A line without the means of before is no estimate.
    assert (core["dice"]["dice"], core["dice"]["error"]) == (core["expected_dice"], None)
    assert rim["dice"] is rim["expected_dice"] is rim["dice_between_draws"] is rim["calibrated_dice"] is None


def test_a_mask_by_thresholds_and_the_interval_of_correlated_voxels() -> None:
    probability = torch.full((2, 2, 2, 2), 0.3)
    probability[1, 0] = 0.6
    probability[0] = 1 - probability[1]
    average, draws = PosteriorAverage(), DrawMasks()
    average.add(probability)
    mask = Volume(np.ones((2, 2, 2), np.uint8), np.diag([5.0, 5.0, 5.0, 1.0]))
    facts = structure_facts(mask, {"core": 1}, average, draws, (5.0, 5.0, 5.0), 0.125, {}, (0.25,), 0.0)["core"]
    assert facts["expected_dice"] == pytest.approx(2 * 3.6 / (8 + 3.6), rel=1e-5)
    assert facts["volume_90_percent_ml"] == pytest.approx([3.6 * 0.125] * 2)
    average = PosteriorAverage()
    average.add(torch.tensor([0.9, 0.1])[:, None, None, None].expand(2, 2, 2, 2).clone())
    facts = structure_facts(mask, {"core": 1}, average, draws, (5.0, 5.0, 5.0), 0.125, {}, (0.5,), 0.1)["core"]
    assert facts["volume_90_percent_ml"] is None


def test_calibration_finds_a_line_and_says_how_far_cases_lie_from_it() -> None:
    x = np.linspace(0.3, 0.9, 12)
    exact = DiceCalibration.fit(x, 0.2 + 0.7 * x)
    assert exact is not None
    assert (exact.slope, exact.intercept, exact.residual) == pytest.approx((0.7, 0.2, 0.0), abs=1e-12)
    assert exact.correlation == pytest.approx(1.0)
    assert exact.line(0.5) == pytest.approx(0.55)
    noise = 0.1 * np.resize([1, -1], 12)
    rough = DiceCalibration.fit(x, 0.2 + 0.7 * x + noise)
    assert rough is not None
    assert rough.residual == pytest.approx(0.1, rel=0.15)
    assert DiceCalibration(cases=9, slope=2.0, intercept=0.0, residual=0.1).line(0.9) == 1.0


def test_calibration_claims_nothing_that_the_cases_do_not_show() -> None:
    assert DiceCalibration.fit([0.5] * (LEAST_CASES - 1), [0.5] * (LEAST_CASES - 1)) is None
    assert DiceCalibration.fit([math.nan] + [0.5] * (LEAST_CASES - 1), [0.5] * LEAST_CASES) is None
    flat = DiceCalibration.fit([0.5] * LEAST_CASES, np.linspace(0, 1, LEAST_CASES).tolist())
    assert flat is not None
    assert (flat.slope, flat.line(0.9), flat.correlation) == (0.0, pytest.approx(0.5), None)
    falling = DiceCalibration.fit(np.linspace(0, 1, 10).tolist(), np.linspace(1, 0, 10).tolist())
    assert falling is not None
    assert (falling.slope, falling.intercept) == (0.0, pytest.approx(0.5))


def test_few_cases_correct_the_expected_dice_by_its_mean_error() -> None:
    x = np.array([0.80, 0.82, 0.83, 0.85, 0.86, 0.84, 0.81])
    y = 3.5 * x - 2.2 + 0.05 * np.resize([1, -1], 7)
    few = DiceCalibration.fit(x, y)
    assert few is not None
    assert few.cases < LEAST_LINE
    estimate = few.estimate(0.83)
    assert estimate.dice == pytest.approx(0.83 + (y - x).mean())
    assert estimate.error == pytest.approx((y - x).std(ddof=1) * math.sqrt(8 / 7))
    assert estimate.cases == 7
    assert "the mean error of 7 test cases" in estimate.basis
    # Nothing better or worse than what was seen.
    assert few.estimate(1.0).dice == pytest.approx(y.max())
    assert few.estimate(0.1).dice == pytest.approx(y.min())


@pytest.mark.parametrize(("slope", "shown"), [(0.6, 0.6), (3.5, 2.0), (0.1, 0.1)])
def test_more_cases_bear_a_line_of_a_limited_slope(slope: float, shown: float) -> None:
    x = np.linspace(0.5, 0.9, 40)
    many = DiceCalibration.fit(x, slope * (x - 0.7) + 0.55 + 0.003 * np.resize([1, -1], 40))
    assert many is not None
    away = many.estimate(0.75).dice - many.estimate(0.65).dice
    assert away == pytest.approx(0.1 * shown, rel=0.05)
    assert many.estimate(0.7).dice == pytest.approx(0.55, abs=1e-3)


def test_a_noisy_slope_is_shrunk_to_a_shift() -> None:
    x = np.linspace(0.7, 0.8, 20)
    y = x - 0.1 + 0.1 * np.resize([1, -1], 20)
    noisy = DiceCalibration.fit(x, y)
    assert noisy is not None
    assert noisy.slope != pytest.approx(1, abs=1e-3)
    assert noisy.shown_slope == 1.0
    assert noisy.estimate(0.75).dice - noisy.estimate(0.74).dice == pytest.approx(0.01)


def test_the_words_warn_where_nothing_was_checked_or_the_case_is_suspect() -> None:
    assert unchecked(0.84).words(suspect=False) == "Dice 0.84 by its own account (never checked)"
    estimate = DiceEstimate(0.66, 0.1, 8, "")
    assert estimate.words(suspect=False) == "Dice about 0.66 ± 0.10"
    assert estimate.words(suspect=True) == "Dice about 0.66 ± 0.10, NOT for a suspect case"


def test_pairs_of_expected_and_real_dice_are_of_the_mask_that_the_arm_makes() -> None:
    label = torch.zeros((6, 6, 6), dtype=torch.int16)
    label[1:5] = 1
    case = SimpleNamespace(label=lambda: label, spacing=np.ones(3), classes=("core",))
    foreground = torch.full((6, 6, 6), 0.01)
    foreground[1:5] = 0.45
    foreground[2:4] = 0.9
    probability = torch.stack([1 - foreground, foreground])
    found = {}
    for rule in MaskRule:
        pairs = DicePairs()
        pairs.add(read_average(probability, ReadingOptions(mask=rule), (1.0, 1.0, 1.0)), cast(CachedCase, case))
        found[rule] = pairs.real["core"][0]
    assert found == {MaskRule.MOST_PROBABLE: pytest.approx(2 / 3), MaskRule.EXPECTED_DICE: 1.0}
