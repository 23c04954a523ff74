"""How far the Dice that an arm expects of its masks is from the one they have, over the test patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.calibration_tables import CalibrationRow
from pipeline.evaluation.statistics import measured_patients, why_no_interval
from pipeline.evaluation.tables import StudyRows


@dataclass(frozen=True)
class ExpectedDiceError:
    """Expected Dice of one arm at one size beside what came of it.

    Attributes:
        expected: mean expected Dice.
        dice: mean Dice of the same cases.
        error: mean over patients and repeats of the distance between the two.
    """

    expected: float
    dice: float
    error: float


def expected_dice_error(study: StudyRows[CalibrationRow], arm: str, n: int) -> ExpectedDiceError | None:
    """Holds the expected Dice of an arm against its Dice.

    Args:
        study: rows of `calibration.csv`.
        arm: which.
        n: number of target patients.

    Returns:
        None where too few test patients tell how far it is off: then it is not worth showing.
    """
    expected, dice = study.table("expected_dice", n), study.table("dice", n)
    if arm not in expected.arms:
        return None
    promised, found = expected.of(arm), dice.of(arm)
    away = np.abs(promised - found)
    known = np.isfinite(away)
    if why_no_interval(measured_patients(away)):
        return None
    return ExpectedDiceError(float(promised[known].mean()), float(found[known].mean()), float(away[known].mean()))
