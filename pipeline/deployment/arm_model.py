"""The folder of an arm in a study: its record and its model, made of what was trained and predicted for it.

Nothing is trained or predicted here; an arm that differs from another in its reading alone costs a few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.networks.factory import NetworkOptions
from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.arms.training_unit import MEMBER, read_training
from pipeline.deployment.fingerprint import TrainingFingerprint, cached_facts
from pipeline.deployment.model_description import ModelDescription, ModelOrigin, label_values
from pipeline.deployment.model_folder import MODEL_FOLDER, member_name, write_model
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.evaluation.fitted_reading import read_fitted
from pipeline.execution.progress import ProgressFile
from pipeline.execution.provenance import graft_version
from pipeline.metrics.overlap import count_voxels, dice
from pipeline.prediction.expected_dice import expected_dice
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import ReadPrediction, load_prediction, prediction_name
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class TestedFold:
    """One prediction of an arm.

    Attributes:
        folder: of the prediction.
        cases: the test cases that it is of.
        reading: folder of the reading that was fitted for it; `None` where the options of the arm say how it is read.
    """

    folder: Path
    cases: Sequence[CachedCase]
    reading: Path | None = None


@dataclass(frozen=True)
class ArmTask:
    """One arm at one size in one repeat.

    Attributes:
        name: of the arm.
        options: its choices.
        objective: what its trainings minimised, in words.
        n: number of target patients.
        repeat: which repeat.
        steps: optimiser steps of each member.
        patients: patient → cases that its model learned from; none where it only measures.
        seeds: seed of each member's draws.
        trainings: key → folder of the training of each member of its model.
        predictions: key → one of its predictions; several in cross-validation.
        reading: folder of the fitted reading of its model; `None` where the options say how it reads.
        network: the network.
        patch: size of the sliding window.
        window: how it moves.
        flip_axes: axes that the augmentation mirrored.
        origin: what the study knows of the target.
    """

    name: str
    options: ArmOptions
    objective: str
    n: int
    repeat: int
    steps: int
    patients: Mapping[str, Sequence[CachedCase]]
    seeds: Sequence[int]
    trainings: Mapping[str, Path]
    predictions: Mapping[str, TestedFold]
    reading: Path | None
    network: NetworkOptions
    patch: tuple[int, int, int]
    window: SlidingWindowOptions
    flip_axes: tuple[int, ...]
    origin: ModelOrigin


@dataclass
class DicePairs:
    """Expected and real Dice of each class on the test cases of a study."""

    expected: dict[str, list[float]] = field(default_factory=dict)
    real: dict[str, list[float]] = field(default_factory=dict)
    patients: dict[str, list[str]] = field(default_factory=dict)

    def add(self, prediction: ReadPrediction, case: CachedCase) -> None:
        """Adds a test case with its prediction; structures that prediction and reference both lack say nothing."""
        label, foreground = case.label().numpy(), prediction.foreground.numpy()
        for number, name in enumerate(case.classes, start=1):
            mask, reference = prediction.mask == number, label == number
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
    folds = task.predictions.values()
    fitted = None if task.reading is None else read_fitted(task.reading)
    choices = task.options if fitted is None else task.options.with_reading(fitted.reading)
    readings = [choices.reading if fold.reading is None else read_fitted(fold.reading).reading for fold in folds]
    started_anew: tuple[str, ...] = ()
    if task.trainings:
        started_anew = read_training(next(iter(task.trainings.values()))).started_anew
        members = [training / MEMBER for training in task.trainings.values()]
        description = _description(task, choices, _dice_pairs(list(folds), readings, progress))
        write_model(folder / MODEL_FOLDER, description, members)
    ArmRecord(
        arm=task.name,
        n=task.n,
        repeat=task.repeat,
        patients=tuple(task.patients),
        steps=task.steps,
        choices=choices,
        objective=task.objective,
        trainings=tuple(task.trainings),
        predictions=tuple(task.predictions),
        readings=tuple(readings),
        reading_patients=0 if fitted is None else fitted.patients,
        started_anew=started_anew,
    ).write(folder)


def _dice_pairs(folds: Sequence[TestedFold], readings: Sequence[ReadingOptions], progress: ProgressFile) -> DicePairs:
    """Reads all predictions; in cross-validation those of all folds, by models that never saw the cases."""
    pairs = DicePairs()
    tested = [(fold, case, own) for fold, own in zip(folds, readings, strict=True) for case in fold.cases]
    for position, (fold, case, reading) in enumerate(tested):
        stored = load_prediction(fold.folder / prediction_name(case.name))
        pairs.add(stored.read(reading), case)
        progress((position + 1) / (len(tested) + 1))
    return pairs


def _description(task: ArmTask, choices: ArmOptions, pairs: DicePairs) -> ModelDescription:
    cases = [case for own in task.patients.values() for case in own]
    classes = {name: list(values) for name, values in cases[0].classes.items()}
    return ModelDescription(
        **task.origin.model_dump(),
        graft_version=graft_version(),
        arm_name=task.name,
        arm=choices,
        objective=task.objective,
        training_patients=len(task.patients),
        repeat=task.repeat,
        network=task.network,
        classes=label_values(classes),
        patch=task.patch,
        window=task.window,
        flip_axes=task.flip_axes,
        draws=choices.draws,
        members=tuple(member_name(number) for number in range(len(task.trainings))),
        seeds=tuple(task.seeds),
        fingerprint=TrainingFingerprint.of([cached_facts(case, task.origin.channels) for case in cases]),
        dice_fits=pairs.fits(),
    )
