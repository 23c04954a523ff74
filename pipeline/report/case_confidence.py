"""The one number that says how sure an arm is of its mask of a case: the expected Dice, with its error."""

from __future__ import annotations

import math

import numpy as np

from pipeline.evaluation.expected_dice_error import expected_dice_error
from pipeline.report.number_text import number
from pipeline.report.study_files import StudyFiles


def case_confidence(files: StudyFiles, arm: str, n: int, repeat: int) -> dict[str, str]:
    """Prints the expected Dice of every test case with the mean error on the test patients.

    Args:
        files: of the study.
        arm: which.
        n: number of target patients.
        repeat: which repeat's network.

    Returns:
        Case → e.g. `0.83 ± 0.12`, the mean over labels; empty where the error is not known, since an expected Dice
        without it may be far too high on unseen patients.
    """
    judged = files.calibration
    held = None if judged is None else expected_dice_error(judged, arm, n)
    if judged is None or held is None:
        return {}
    values: dict[str, list[float]] = {}
    for row in judged.rows:
        if (row.arm, row.n, row.repeat) == (arm, n, repeat) and math.isfinite(row.expected_dice):
            values.setdefault(row.case, []).append(row.expected_dice)
    return {case: f"{number(float(np.mean(v)), 2)} ± {number(held.error, 2)}" for case, v in values.items()}
