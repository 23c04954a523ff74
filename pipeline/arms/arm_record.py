"""`unit.json` of an arm: the trainings that it is made of and the prediction that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import model_validator

from data.stored_record import WHOLE, StoredRecord, read_record
from pipeline.arms.choices import ArmOptions
from pipeline.prediction.reading import ReadingOptions
from pipeline.storage.atomic import write_record

UNIT = "unit.json"
TRAININGS, PREDICTIONS, RATES, READINGS = "train-target", "predict-test", "tune-rates", "fit-readings"
PSEUDO_LABELS, ROUNDS = "predict-unlabelled", "keep-rounds"
"""Folders of the workspace next to `infer`."""


class ArmRecord(StoredRecord):
    """One arm at one size in one repeat: `infer/ARM/nNN/repeat-R/unit.json`."""

    FORMAT: ClassVar[int] = 2

    arm: str
    """Its name."""
    n: int
    """Number of target patients."""
    repeat: int
    """Number of the repeat."""
    patients: tuple[str, ...]
    """Names of the target patients that its model learned from; none where it has no model."""
    steps: int
    """Optimiser steps of each member."""
    choices: Annotated[ArmOptions, WHOLE]
    """How it learns and reads."""
    objective: str
    """Name of the objective that its trainings minimised."""
    trainings: tuple[str, ...]
    """Key of the training of each member of its model: a folder below `train-target/`."""
    predictions: tuple[str, ...]
    """Keys of its predictions, one for each fold of a cross-validation: folders below `predict-test/`."""
    readings: tuple[Annotated[ReadingOptions, WHOLE], ...] = ()
    """How each of its predictions is read: where that is fitted, to each fold's own training patients."""
    reading_patients: int = 0
    """Training patients on whose out-of-fold predictions the reading of its choices was fitted; 0 where it is given."""
    reading_predictions: tuple[str, ...] = ()
    """Keys of these out-of-fold predictions: folders below `predict-test/`."""
    kept_rounds: tuple[int, ...] = ()
    """Round of self-training that was kept for each set of patients that models learned from: those of the folds, and
    last those of its model; none without self-training."""
    round_dice: tuple[float, ...] = ()
    """Mean Dice of the out-of-fold predictions of each round, from round 0 on, by which its model's was chosen; without
    a model, that of its first fold. None where nothing could be chosen."""
    started_anew: tuple[str, ...] = ()
    """Parameters that did not fit the network that it started from and kept their random start."""

    def read_predictions(self) -> list[tuple[str, ReadingOptions]]:
        """Key of each prediction, and how it is read."""
        readings = self.readings or (self.choices.reading,) * len(self.predictions)
        return list(zip(self.predictions, readings, strict=True))

    def readings_by_key(self) -> dict[str, ReadingOptions]:
        """Key of each prediction out of fold, of tests and of those that the reading was fitted on → how it is read."""
        return dict.fromkeys(self.reading_predictions, self.choices.reading) | dict(self.read_predictions())

    @model_validator(mode="before")
    @classmethod
    def _of_format_1(cls, value: Any) -> Any:
        """Before there was cross-validation, an arm had one prediction."""
        if isinstance(value, dict) and "prediction" in value:
            return {**value, "predictions": [value["prediction"]]}
        return value

    def write(self, folder: Path) -> None:
        """Writes it into the folder of the arm."""
        write_record(folder / UNIT, self)


def read_arm(folder: Path) -> ArmRecord:
    """Reads the record of an arm.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / UNIT, ArmRecord, "delete its folder and run `graft infer` again")
