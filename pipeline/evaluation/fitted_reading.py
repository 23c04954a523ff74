"""How an arm reads its probabilities, fitted on out-of-fold predictions of its own training patients.

A temperature belongs to a task: one that was fitted on another task can make probabilities worse. So the patients that
an arm learns from are parted into inner folds; models that learned from the other folds predict each of them; the
temperature minimises the negative log-likelihood of these predictions (Guo et al. 2017), and the voxel correlation is
fitted under it. No patient on whom the arm is judged is among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data.stored_record import WHOLE, StoredRecord, read_record
from pipeline.evaluation.arm_calibration import CalibrationCase, possible_in
from pipeline.evaluation.options import CalibrationOptions
from pipeline.evaluation.temperature_scaling import fit_temperature
from pipeline.evaluation.voxel_correlation import fit_correlation
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction, prediction_name
from pipeline.storage.atomic import write_record
from pipeline.storage.cached_case import CachedCase

READING = "reading.json"
"""What was fitted: `FittedReading`."""


class FittedReading(StoredRecord):
    """The content of `reading.json`."""

    reading: Annotated[ReadingOptions, WHOLE]
    """How the arm reads its probabilities."""
    patients: int
    """Training patients on whose out-of-fold predictions it was fitted."""
    predictions: tuple[str, ...] = ()
    """Keys of these predictions: folders below `predict-test/`."""


@dataclass(frozen=True)
class ReadingTask:
    """One fit.

    Attributes:
        declared: the reading of the arm's choices, used where nothing can be fitted.
        predictions: key and folder of each inner fold's prediction, and the cases that it holds.
        options: which voxels count.
    """

    declared: ReadingOptions
    predictions: Sequence[tuple[str, Path, Sequence[CachedCase]]]
    options: CalibrationOptions


def fit_reading(folder: Path, progress: ProgressFile, *, task: ReadingTask) -> None:
    """Fits temperature and voxel correlation, and writes them.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    plain = task.declared.model_copy(update={"logit_temperature": 1.0})
    tested = [(own, case) for _, own, cases in task.predictions for case in cases]
    cases = []
    for position, (own, case) in enumerate(tested):
        cases.append(CalibrationCase.of(load_prediction(own / prediction_name(case.name)), case, plain))
        progress((position + 1) / (len(tested) + 1))
    record = FittedReading(
        reading=fitted_reading(task.declared, cases, task.options),
        patients=len({case.patient for case in cases}),
        predictions=tuple(key for key, *_ in task.predictions),
    )
    write_record(folder / READING, record)


def fitted_reading(
    declared: ReadingOptions, cases: Sequence[CalibrationCase], options: CalibrationOptions
) -> ReadingOptions:
    """Returns the declared reading with the temperature, and the correlation if it has one, of these predictions.

    Args:
        declared: of the arm; its numbers stay where the predictions cannot tell.
        cases: out-of-fold predictions, read without a temperature.
        options: which voxels count.
    """
    samples = [case.near_boundary(options) for case in cases]
    temperature = fit_temperature(samples) or declared.logit_temperature
    found: Mapping[str, float] = {"logit_temperature": temperature}
    if declared.voxel_correlation is not None:
        possible = [
            possible_in(case, number, options.clamp).scaled(temperature)
            for case in cases
            for number in range(1, len(case.labels) + 1)
        ]
        found = {**found, "voxel_correlation": fit_correlation(possible) or declared.voxel_correlation}
    return declared.model_copy(update=found)


def read_fitted(folder: Path) -> FittedReading:
    """Reads what was fitted.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / READING, FittedReading, "delete its folder and run `graft infer` again")
