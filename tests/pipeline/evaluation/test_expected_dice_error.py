from __future__ import annotations

import pytest

from pipeline.evaluation.calibration_tables import CalibrationRow
from pipeline.evaluation.expected_dice_error import expected_dice_error
from pipeline.evaluation.tables import StudyRows


def judged(patients: int) -> StudyRows[CalibrationRow]:
    return StudyRows(
        [
            CalibrationRow("dwp", 5, 0, f"c{i}", f"p{i}", "core", dice=0.6 if i % 2 else 0.9, expected_dice=0.8)
            for i in range(patients)
        ]
    )


def test_the_error_is_the_mean_distance_and_not_the_distance_of_the_means() -> None:
    found = expected_dice_error(judged(6), "dwp", 5)
    assert found is not None
    assert (found.expected, found.dice, found.error) == pytest.approx((0.8, 0.75, 0.15))


def test_too_few_patients_and_unknown_arms_have_no_error_and_so_no_expected_dice() -> None:
    assert expected_dice_error(judged(4), "dwp", 5) is None
    assert expected_dice_error(judged(6), "random", 5) is None
