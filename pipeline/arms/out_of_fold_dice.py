"""The mean Dice of predictions that were made out of fold: what alternatives of an arm are compared by.

No patient on whom the arm is judged is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.metrics.structure_dice import structure_dice
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction, prediction_name
from pipeline.storage.cached_case import CachedCase

Predictions = Sequence[tuple[Path, Sequence[CachedCase]]]
"""Folders of the predictions of inner folds, with the cases that they hold."""


@dataclass(frozen=True)
class OutOfFoldDice:
    """What was measured of several alternatives.

    Attributes:
        means: mean Dice over patients of each, in their order.
        patients: number of patients.
    """

    means: tuple[float, ...]
    patients: int

    @property
    def best(self) -> int:
        """The alternative with the highest mean, of equal ones the first."""
        return int(np.argmax(self.means))


def out_of_fold_dice(
    alternatives: Sequence[Predictions], reading: ReadingOptions, progress: Callable[[float], object]
) -> OutOfFoldDice:
    """Measures the predictions of each alternative.

    Args:
        alternatives: the predictions of each.
        reading: how they are read.
        progress: called with the share that is done.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    means: list[float] = []
    patients: set[str] = set()
    for predictions in alternatives:
        of_patient: dict[str, list[float]] = {}
        for own, cases in predictions:
            for case in cases:
                of_patient.setdefault(case.patient, []).append(_dice(own, case, reading))
        means.append(float(np.mean([np.mean(values) for values in of_patient.values()])))
        patients |= of_patient.keys()
        progress(len(means) / len(alternatives))
    return OutOfFoldDice(tuple(means), len(patients))


def _dice(folder: Path, case: CachedCase, reading: ReadingOptions) -> float:
    """The mean over classes, on the preprocessed grid."""
    mask = load_prediction(folder / prediction_name(case.name)).read(reading).mask
    return float(np.mean(structure_dice(mask, case.label().numpy(), case.heads, len(case.classes))))
