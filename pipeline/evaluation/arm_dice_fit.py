"""How far the Dice that one arm of a study expects of its masks is from the one they have, over the test patients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.evaluation.calibration_tables import CalibrationRow
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.evaluation.tables import StudyRows

Pair = tuple[float, float]
"""Expected and real Dice of a case, each the mean over its labels."""


def dice_pairs(
    study: StudyRows[CalibrationRow], arm: str, n: int, repeat: int | None = None
) -> dict[tuple[int, str, str], Pair]:
    """Collects expected and real Dice of the test cases of one arm.

    Args:
        study: rows of `calibration.csv`.
        arm: which.
        n: number of target patients.
        repeat: which repeat's network; None for all.

    Returns:
        Repeat, patient and case → its pair, where any label was predicted and measured.
    """
    labels: dict[tuple[int, str, str], list[Pair]] = {}
    for row in study.rows:
        chosen = (row.arm, row.n) == (arm, n) and repeat in (None, row.repeat)
        # An empty mask expects 0, which says nothing of how well others are: `predict` gives no estimate of it either.
        if chosen and row.expected_dice > 0 and np.isfinite(row.dice):
            labels.setdefault((row.repeat, row.patient, row.case), []).append((row.expected_dice, row.dice))
    means = {key: np.mean(pairs, axis=0) for key, pairs in labels.items()}
    return {key: (float(expected), float(real)) for key, (expected, real) in means.items()}


def fit_dice(pairs: Mapping[tuple[int, str, str], Pair]) -> DiceFit | None:
    """Fits what `predict` fits for the model of the arm; None where the test patients are too few to tell."""
    return DiceFit.fit(
        [expected for expected, _ in pairs.values()],
        [real for _, real in pairs.values()],
        [patient for _, patient, _ in pairs],
    )
