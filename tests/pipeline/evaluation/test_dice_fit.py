"""The estimate of the real Dice from the expected one, as the report and `predict` show it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.deployment.arm_model import DicePairs
from pipeline.evaluation.arm_dice_fit import dice_pairs, fit_dice
from pipeline.evaluation.calibration_tables import CalibrationRow
from pipeline.evaluation.dice_fit import DiceEstimate, DiceFit, unchecked
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_INTERVAL, FEWEST_PATIENTS_FOR_LINE
from pipeline.evaluation.tables import StudyRows

Numbers = Sequence[float] | NDArray[np.float64]


def fit(expected: Numbers, real: Numbers) -> DiceFit | None:
    """Of one case for each patient."""
    return DiceFit.fit(list(expected), list(real), [str(i) for i in range(len(expected))])


def test_calibration_finds_a_line_and_says_how_far_cases_lie_from_it() -> None:
    x = np.linspace(0.3, 0.9, 12)
    exact = fit(x, 0.2 + 0.7 * x)
    assert exact is not None
    assert (exact.slope, exact.intercept, exact.residual) == pytest.approx((0.7, 0.2, 0.0), abs=1e-12)
    assert exact.correlation == pytest.approx(1.0)
    assert exact.line(0.5) == pytest.approx(0.55)
    noise = 0.1 * np.resize([1, -1], 12)
    rough = fit(x, 0.2 + 0.7 * x + noise)
    assert rough is not None
    assert rough.residual == pytest.approx(0.1, rel=0.15)
    assert DiceFit(cases=9, slope=2.0, intercept=0.0, residual=0.1).line(0.9) == 1.0


def test_calibration_claims_nothing_that_the_cases_do_not_show() -> None:
    assert fit([0.5] * (FEWEST_PATIENTS_FOR_INTERVAL - 1), [0.5] * (FEWEST_PATIENTS_FOR_INTERVAL - 1)) is None
    assert fit([math.nan] + [0.5] * (FEWEST_PATIENTS_FOR_INTERVAL - 1), [0.5] * FEWEST_PATIENTS_FOR_INTERVAL) is None
    flat = fit([0.5] * FEWEST_PATIENTS_FOR_INTERVAL, np.linspace(0, 1, FEWEST_PATIENTS_FOR_INTERVAL).tolist())
    assert flat is not None
    assert (flat.slope, flat.line(0.9), flat.correlation) == (0.0, pytest.approx(0.5), None)
    falling = fit(np.linspace(0, 1, 10).tolist(), np.linspace(1, 0, 10).tolist())
    assert falling is not None
    assert (falling.slope, falling.intercept) == (0.0, pytest.approx(0.5))


def test_few_cases_correct_the_expected_dice_by_its_mean_error() -> None:
    x = np.array([0.80, 0.82, 0.83, 0.85, 0.86, 0.84, 0.81])
    y = 3.5 * x - 2.2 + 0.05 * np.resize([1, -1], 7)
    few = fit(x, y)
    assert few is not None
    assert few.cases < FEWEST_PATIENTS_FOR_LINE
    estimate = few.estimate(0.83)
    assert estimate.dice == pytest.approx(0.83 + (y - x).mean())
    assert estimate.error == pytest.approx((y - x).std(ddof=1) * math.sqrt(8 / 7))
    assert estimate.cases == 7
    assert "the mean error of 7 test patients" in estimate.basis
    # Nothing better or worse than what was seen.
    assert few.estimate(1.0).dice == pytest.approx(y.max())
    assert few.estimate(0.1).dice == pytest.approx(y.min())


@pytest.mark.parametrize(("slope", "shown"), [(0.6, 0.6), (3.5, 2.0), (0.1, 0.1)])
def test_more_cases_bear_a_line_of_a_limited_slope(slope: float, shown: float) -> None:
    x = np.linspace(0.5, 0.9, 40)
    many = fit(x, slope * (x - 0.7) + 0.55 + 0.003 * np.resize([1, -1], 40))
    assert many is not None
    away = many.estimate(0.75).dice - many.estimate(0.65).dice
    assert away == pytest.approx(0.1 * shown, rel=0.05)
    assert many.estimate(0.7).dice == pytest.approx(0.55, abs=1e-3)


def test_a_noisy_slope_is_shrunk_to_a_shift() -> None:
    x = np.linspace(0.7, 0.8, 20)
    y = x - 0.1 + 0.1 * np.resize([1, -1], 20)
    noisy = fit(x, y)
    assert noisy is not None
    assert noisy.slope != pytest.approx(1, abs=1e-3)
    assert noisy.shown_slope == 1.0
    assert noisy.estimate(0.75).dice - noisy.estimate(0.74).dice == pytest.approx(0.01)


def test_the_words_warn_where_nothing_was_checked_or_the_case_is_suspect() -> None:
    assert unchecked(0.84).words(suspect=False) == "Dice 0.84 by its own account (never checked)"
    estimate = DiceEstimate(0.66, 0.1, 8, "")
    assert estimate.words(suspect=False) == "Dice about 0.66 ± 0.10"
    assert estimate.words(suspect=True) == "Dice about 0.66 ± 0.10, NOT for a suspect case"


def test_patients_are_the_unit_and_not_their_cases() -> None:
    expected, real = [0.8, 0.9, 0.7, 0.85, 0.75], [0.7, 0.6, 0.65, 0.8, 0.5]
    assert DiceFit.fit(expected * 3, real * 3, list("aabb" * 4)[:15]) is None
    alone = DiceFit.fit(expected, real, list("abcde"))
    often = DiceFit.fit(expected + expected[:1] * 9, real + real[:1] * 9, list("abcde" + "a" * 9))
    assert alone is not None
    assert often is not None
    assert (alone.cases, often.cases, alone.patients, often.patients) == (5, 14, 5, 5)
    assert often.estimate(0.8).dice == pytest.approx(alone.estimate(0.8).dice)
    assert often.error == pytest.approx(alone.error)
    assert "5 test patients" in often.estimate(0.8).basis


def judged(patients: int, labels: Sequence[str] = ("core",)) -> StudyRows[CalibrationRow]:
    return StudyRows(
        [
            CalibrationRow(
                "dwp", 5, repeat, f"c{i}", f"p{i}", label, dice=0.6 if i % 2 else 0.9, expected_dice=0.8 + 0.01 * repeat
            )
            for i in range(patients)
            for repeat in range(2)
            for label in labels
        ]
    )


def test_the_report_has_the_fit_of_the_model_that_predict_uses() -> None:
    pairs = DicePairs()
    rows = [row for row in judged(6).rows if row.repeat == 1]
    pairs.expected["core"] = [row.expected_dice for row in rows]
    pairs.real["core"] = [row.dice for row in rows]
    pairs.patients["core"] = [row.patient for row in rows]
    found = fit_dice(dice_pairs(judged(6), "dwp", 5, repeat=1))
    assert found == pairs.fits()["core"]
    # Several labels of a case are averaged: they are no further cases.
    assert fit_dice(dice_pairs(judged(6, ("core", "rim")), "dwp", 5, repeat=1)) == found


def test_a_missed_structure_is_no_case_of_the_fit_and_has_no_estimate() -> None:
    rows = judged(6)
    rows.rows.append(CalibrationRow("dwp", 5, 1, "missed", "p9", "core", dice=0.0, expected_dice=0.0))
    pairs = dice_pairs(StudyRows(rows.rows), "dwp", 5, repeat=1)
    assert (1, "p9", "missed") not in pairs
    assert fit_dice(pairs) == fit_dice(dice_pairs(judged(6), "dwp", 5, repeat=1))


def test_repeats_are_no_further_patients() -> None:
    found = fit_dice(dice_pairs(judged(6), "dwp", 5))
    assert found is not None
    assert (found.cases, found.patients) == (12, 6)
    assert (found.expected_mean, found.real_mean) == pytest.approx((0.805, 0.75))


def test_too_few_patients_and_unknown_arms_have_no_fit() -> None:
    assert fit_dice(dice_pairs(judged(4), "dwp", 5)) is None
    assert fit_dice(dice_pairs(judged(6), "random", 5)) is None
