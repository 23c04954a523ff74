"""How an arm reads its probabilities, fitted on out-of-fold predictions of its own training patients.

A temperature belongs to a task: one that was fitted on another task can make probabilities worse. So the patients that
an arm learns from are parted into inner folds; models that learned from the other folds predict each of them; the
temperature minimises the negative log-likelihood of these predictions (Guo et al. 2017), and the voxel correlation is
fitted under it. Then mask rule and post-processing are chosen by the Dice of these predictions
(`fitted_masks`). No patient on whom the arm is judged is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data.stored_record import WHOLE, StoredRecord, read_record
from pipeline.evaluation.arm_calibration import CalibrationCase, possible_in
from pipeline.evaluation.fitted_masks import ReadMasks, fit_masks
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
    given_dice: dict[str, float] = Field(default_factory=dict)
    """Class → mean Dice of these predictions as the arm's choices read them."""
    dice: dict[str, float] = Field(default_factory=dict)
    """Class → mean Dice with this reading."""


@dataclass(frozen=True)
class ReadingTask:
    """One fit.

    Attributes:
        declared: the reading of the arm's choices, used where nothing can be fitted.
        predictions: key and folder of each inner fold's prediction, and the cases that it holds.
        options: which voxels count.
        fit_mask: whether the mask rule is fitted, too.
    """

    declared: ReadingOptions
    predictions: Sequence[tuple[str, Path, Sequence[CachedCase]]]
    options: CalibrationOptions
    fit_mask: bool = False


def fit_reading(folder: Path, progress: ProgressFile, *, task: ReadingTask) -> None:
    """Fits the reading, and writes it.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    plain = task.declared.model_copy(update={"logit_temperature": 1.0})
    tested = [(own, case) for _, own, cases in task.predictions for case in cases]
    cases = []
    for position, (own, case) in enumerate(tested):
        cases.append(CalibrationCase.of(load_prediction(own / prediction_name(case.name)), case, plain))
        progress((position + 1) / (len(tested) + 1))
    reading = fitted_reading(task.declared, cases, task.options, fit_mask=task.fit_mask)
    record = FittedReading(
        reading=reading,
        patients=len({case.patient for case in cases}),
        predictions=tuple(key for key, *_ in task.predictions),
        given_dice=ReadMasks.of(task.declared, cases).dice(),
        dice=ReadMasks.of(reading, cases).dice(),
    )
    write_record(folder / READING, record)


def fitted_reading(
    declared: ReadingOptions,
    cases: Sequence[CalibrationCase],
    options: CalibrationOptions,
    *,
    fit_mask: bool = False,
) -> ReadingOptions:
    """Returns the declared reading with what fits these predictions best.

    Args:
        declared: of the arm; its numbers stay where the predictions cannot tell, its rules of post-processing always.
        cases: out-of-fold predictions, read without a temperature.
        options: which voxels count.
        fit_mask: whether the mask rule is fitted, too.
    """
    temperature = fit_temperature([case.near_boundary(options) for case in cases]) or declared.logit_temperature
    given = ReadMasks.of(declared.model_copy(update={"logit_temperature": temperature}), cases)
    masks = fit_masks(given, cases) if fit_mask else given.with_fitted_rules()
    reading = masks.reading
    if reading.voxel_correlation is not None:
        correlation = _correlation(reading, cases, options) or reading.voxel_correlation
        reading = reading.model_copy(update={"voxel_correlation": correlation})
    return reading


def _correlation(
    reading: ReadingOptions, cases: Sequence[CalibrationCase], options: CalibrationOptions
) -> float | None:
    """Fits ρ to the voxels that may belong to what is kept of the structures."""
    kept = [replace(case, prediction=case.read_again(reading).most_probable, thresholds=None) for case in cases]
    possible = [possible_in(case, k, options.clamp) for case in kept for k in range(1, len(case.labels) + 1)]
    return fit_correlation([own.scaled(reading.logit_temperature) for own in possible])


def read_fitted(folder: Path) -> FittedReading:
    """Reads what was fitted.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / READING, FittedReading, "delete its folder and run `graft infer` again")
