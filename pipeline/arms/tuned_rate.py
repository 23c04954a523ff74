"""The peak learning rate of an arm, tuned on inner folds of its own training patients.

Every arm tries the same few rates. Models that learned at each rate from the other inner folds predict each fold, and
the rate with the highest mean Dice over patients is taken. No patient on whom the arm is judged is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.stored_record import StoredRecord, read_record
from pipeline.arms.out_of_fold_dice import Predictions, out_of_fold_dice
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.reading import ReadingOptions
from pipeline.storage.atomic import write_record

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
        tried: each rate, ascending, with the predictions of its inner folds.
        reading: of the arm's choices.
    """

    tried: Sequence[tuple[float, Predictions]]
    reading: ReadingOptions


def tune_rate(folder: Path, progress: ProgressFile, *, task: RateTask) -> None:
    """Chooses the rate with the highest mean Dice, of equal ones the smallest, and writes it.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    found = out_of_fold_dice([predictions for _, predictions in task.tried], task.reading, progress)
    rates = tuple(rate for rate, _ in task.tried)
    record = TunedRate(rate=rates[found.best], tried=rates, dice=found.means, patients=found.patients)
    write_record(folder / RATE, record)


def read_rate(folder: Path) -> float:
    """Reads the rate that was tuned.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / RATE, TunedRate, "delete its folder and run `graft infer` again").rate
