"""The round of self-training that an arm keeps, chosen on inner folds of its own training patients.

Models of each round that learned from the other inner folds predict each fold, and the round with the highest mean Dice
over patients is kept. Round 0, the arm without unlabelled scans, is among them: where these do harm, nothing is lost.
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

ROUND = "round.json"
"""What was kept: `KeptRound`."""


class KeptRound(StoredRecord):
    """The content of `round.json`."""

    kept: int
    """The round that is kept; 0 for the arm without unlabelled scans."""
    dice: tuple[float, ...]
    """Mean Dice of the out-of-fold predictions of each round, from round 0 on."""
    patients: int
    """Training patients on whose out-of-fold predictions it was chosen."""


@dataclass(frozen=True)
class RoundTask:
    """One choice of a round.

    Attributes:
        rounds: the predictions of the inner folds of each round, from round 0 on.
        reading: of the arm's choices.
    """

    rounds: Sequence[Predictions]
    reading: ReadingOptions


def keep_round(folder: Path, progress: ProgressFile, *, task: RoundTask) -> None:
    """Chooses the round with the highest mean Dice, of equal ones the earliest, and writes it.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    found = out_of_fold_dice(task.rounds, task.reading, progress)
    write_record(folder / ROUND, KeptRound(kept=found.best, dice=found.means, patients=found.patients))


def read_round(folder: Path) -> KeptRound:
    """Reads the round that was kept.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / ROUND, KeptRound, "delete its folder and run `graft infer` again")
