"""The folder of an arm in a study: its record and its model, made from its trainings and predictions.

Nothing is trained here, and all that is computed is one pass over each training scan, for the gate; an arm that differs
from another only in its reading takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.heads import IGNORED, Heads
from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.training_unit import MEMBER, load_member, read_training
from pipeline.deployment.fingerprint import TrainingFingerprint, cached_facts
from pipeline.deployment.gate import FeatureGate
from pipeline.deployment.model_description import ModelDescription, ModelOrigin, label_values
from pipeline.deployment.model_folder import MODEL_FOLDER, member_name, write_model
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.evaluation.fitted_reading import read_fitted
from pipeline.execution.progress import ProgressFile
from pipeline.execution.provenance import graft_version
from pipeline.metrics.overlap import count_voxels, dice
from pipeline.prediction.expected_dice import expected_dice
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import ReadPrediction, load_prediction, prediction_name
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class TestedFold:
    """One prediction of an arm.

    Attributes:
        folder: of the prediction.
        cases: the test cases that it is of.
        reading: folder of the reading that was fitted for it; `None` where the arm's choices say how it is read.
    """

    folder: Path
    cases: Sequence[CachedCase]
    reading: Path | None = None


@dataclass(frozen=True)
class ArmTask:
    """The inputs of an arm's record and model.

    Attributes:
        record: the record, except for what was fitted, and for parameters that did not fit the source.
        classes: class name → values in the label maps of the target.
        cases: the training cases of its model; none if it has no model, or learned from no case of the target.
        seeds: seed of each member's draws.
        trainings: folder of the training of each member of its model.
        folds: its predictions; several in cross-validation.
        reading: folder of the reading that was fitted for its model; `None` if its choices say how it reads.
        origin: facts of the model that come from the study.
        device: for the network that looks at the training scans.
        image_gates: image models of the study that tell which scans are unlike its own.
    """

    record: ArmRecord
    classes: Mapping[str, Sequence[int]]
    cases: Sequence[CachedCase]
    seeds: Sequence[int]
    trainings: Sequence[Path]
    folds: Sequence[TestedFold]
    reading: Path | None
    origin: ModelOrigin
    device: str = "cpu"
    image_gates: Sequence[Path] = ()


@dataclass
class DicePairs:
    """Expected and real Dice of each class on the test cases of a study."""

    expected: dict[str, list[float]] = field(default_factory=dict)
    real: dict[str, list[float]] = field(default_factory=dict)
    patients: dict[str, list[str]] = field(default_factory=dict)

    def add(self, prediction: ReadPrediction, case: CachedCase) -> None:
        """Adds a test case with its prediction; structures that neither prediction nor reference holds are left out."""
        label = case.label().numpy()
        annotated = label != IGNORED
        foreground = np.where(annotated, prediction.foreground.numpy(), 0)
        for number, name in enumerate(case.classes, start=1):
            mask = case.heads.belongs(prediction.mask, number) & annotated
            reference = case.heads.belongs(label, number)
            if not mask.any() and not reference.any():
                continue
            expected = expected_dice(foreground[number - 1], mask, case.spacing.tolist())
            self.expected.setdefault(name, []).append(expected)
            self.real.setdefault(name, []).append(dice(count_voxels(mask, reference)))
            self.patients.setdefault(name, []).append(case.patient)

    def fits(self) -> dict[str, DiceFit]:
        """Class → fit, for classes with enough patients."""
        fits = {name: DiceFit.fit(self.expected[name], self.real[name], self.patients[name]) for name in self.expected}
        return {name: fit for name, fit in fits.items() if fit is not None}


def write_arm(folder: Path, progress: ProgressFile, *, task: ArmTask) -> None:
    """Writes the record and the model folder of an arm.

    Raises:
        WorkspaceError: a training or a prediction is missing or damaged.
    """
    record = _with_readings(task)
    if task.trainings:
        members = [training / MEMBER for training in task.trainings]
        pairs = _dice_pairs(task.folds, record.readings, progress)
        description = _description(task, record, pairs)
        write_model(folder / MODEL_FOLDER, description, members, _gate(task, description), task.image_gates)
        record = record.model_copy(update={"started_anew": read_training(task.trainings[0]).started_anew})
    record.write(folder)


def _with_readings(task: ArmTask) -> ArmRecord:
    """The record with the readings that were fitted, of the model and of each prediction."""
    fitted = None if task.reading is None else read_fitted(task.reading)
    choices = task.record.choices if fitted is None else task.record.choices.with_reading(fitted.reading)
    return task.record.model_copy(
        update={
            "choices": choices,
            "reading_patients": 0 if fitted is None else fitted.patients,
            "reading_predictions": () if fitted is None else fitted.predictions,
            "readings": tuple(
                choices.reading if fold.reading is None else read_fitted(fold.reading).reading for fold in task.folds
            ),
        }
    )


def _dice_pairs(folds: Sequence[TestedFold], readings: Sequence[ReadingOptions], progress: ProgressFile) -> DicePairs:
    """Reads all predictions; in cross-validation, those of all folds, by models that never saw the cases."""
    pairs = DicePairs()
    tested = [(fold, case, own) for fold, own in zip(folds, readings, strict=True) for case in fold.cases]
    for position, (fold, case, reading) in enumerate(tested):
        stored = load_prediction(fold.folder / prediction_name(case.name))
        pairs.add(stored.read(reading), case)
        progress((position + 1) / (len(tested) + 1))
    return pairs


def _gate(task: ArmTask, about: ModelDescription) -> FeatureGate | None:
    """What tells later which scans are unlike those that the model has learned from."""
    member = load_member(task.trainings[0], about.arm, about.target_network).to(task.device)
    return FeatureGate.fit(member, task.cases, about.patch, about.window, task.device)


def _description(task: ArmTask, record: ArmRecord, pairs: DicePairs) -> ModelDescription:
    facts = [cached_facts(case, task.origin.channels) for case in task.cases]
    return ModelDescription(
        **dict(task.origin),
        graft_version=graft_version(),
        arm_name=record.arm,
        arm=record.choices,
        objective=record.objective,
        training_patients=len(record.patients),
        repeat=record.repeat,
        classes=label_values(task.classes),
        heads=Heads.of(task.classes),
        draws=record.choices.draws,
        members=tuple(member_name(number) for number in range(len(task.trainings))),
        seeds=tuple(task.seeds),
        kl_moving=sum(not trend.settled for training in task.trainings for trend in read_training(training).kl),
        fingerprint=TrainingFingerprint.of(facts) if facts else None,
        dice_fits=pairs.fits(),
    )
