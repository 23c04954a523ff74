"""The peak learning rate of an arm, tuned on inner folds of its own training patients.

Every arm tries the same few rates. Models that learned at each rate from the other inner folds predict each fold, and
the rate with the highest mean Dice over patients is taken. No patient on whom the arm is judged is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.stored_record import StoredRecord, read_record
from pipeline.execution.progress import ProgressFile
from pipeline.metrics.structure_dice import structure_dice
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction, prediction_name
from pipeline.storage.atomic import write_record
from pipeline.storage.cached_case import CachedCase

RATE = "rate.json"
"""What was tuned: `TunedRate`."""


class TunedRate(StoredRecord):
    """The content of `rate.json`."""

    rate: float
    """The peak learning rate."""
    tried: tuple[float, ...]
    """Rates that were tried, ascending."""
    dice: tuple[float, ...]
    """Mean Dice of the out-of-fold predictions with each."""
    patients: int
    """Training patients on whose out-of-fold predictions it was tuned."""


@dataclass(frozen=True)
class RateTask:
    """One choice of a rate.

    Attributes:
        tried: each rate, ascending, with the folders of its inner folds' predictions and the cases that they hold.
        reading: of the arm's choices.
    """

    tried: Sequence[tuple[float, Sequence[tuple[Path, Sequence[CachedCase]]]]]
    reading: ReadingOptions


def tune_rate(folder: Path, progress: ProgressFile, *, task: RateTask) -> None:
    """Chooses the rate with the highest mean Dice, of equal ones the smallest, and writes it.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    means: list[float] = []
    patients: set[str] = set()
    for _, predictions in task.tried:
        of_patient: dict[str, list[float]] = {}
        for own, cases in predictions:
            for case in cases:
                of_patient.setdefault(case.patient, []).append(_dice(own, case, task.reading))
        means.append(float(np.mean([np.mean(values) for values in of_patient.values()])))
        patients |= of_patient.keys()
        progress(len(means) / len(task.tried))
    rates = tuple(rate for rate, _ in task.tried)
    record = TunedRate(rate=rates[int(np.argmax(means))], tried=rates, dice=tuple(means), patients=len(patients))
    write_record(folder / RATE, record)


def _dice(folder: Path, case: CachedCase, reading: ReadingOptions) -> float:
    """The mean over classes, on the preprocessed grid."""
    mask = load_prediction(folder / prediction_name(case.name)).read(reading).mask
    return float(np.mean(structure_dice(mask, case.label().numpy(), case.heads, len(case.classes))))


def read_rate(folder: Path) -> float:
    """Reads the rate that was tuned.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / RATE, TunedRate, "delete its folder and run `graft infer` again").rate
