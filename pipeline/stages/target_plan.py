"""The units of target training: trainings that arms share, predictions of the test cases, and the arms' own folders.

    train-target/nNN/repeat-R/TRAINING   one member of one way of learning
    predict-test/nNN/repeat-R/PREDICTION the averages over trained members and their draws
    infer/ARM/nNN/repeat-R               an arm: the names of its trainings and prediction, and its model

A training is named after what it depends on, so arms that learn alike find the same one, in this run or a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.arms.arm_record import PREDICTIONS, TRAININGS, ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, member_seed, train_member
from pipeline.config.study import StudyConfig
from pipeline.deployment.arm_model import ArmTask, write_arm
from pipeline.deployment.model_description import ModelOrigin
from pipeline.execution.unit import Unit
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.source_inputs import SourceInputs
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_cells import Cell, Fold, target_cells
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.digest import digest
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

_LETTERS = 12
"""Letters of a digest in the name of a training or a prediction."""


def arm_key(arm: str, n: int, repeat: int) -> str:
    """Key of an arm's folder, e.g. `dwp/n05/repeat-0`."""
    return f"{arm}/{_cell(n, repeat)}"


def _cell(n: int, repeat: int) -> str:
    return f"n{n:02d}/repeat-{repeat}"


@dataclass
class TargetPlan:
    """The units of target training by their keys, each once."""

    trainings: dict[str, Unit] = field(default_factory=dict)
    predictions: dict[str, Unit] = field(default_factory=dict)
    arms: dict[str, Unit] = field(default_factory=dict)

    def tasks(self) -> list[TrainingTask]:
        """The inputs of the trainings."""
        return [unit.arguments["task"] for unit in self.trainings.values()]


def plan_target(config: StudyConfig, workspace: Workspace, resources: Resources) -> TargetPlan:
    """Plans every arm × its sizes × repeat.

    Raises:
        WorkspaceError: an earlier stage is not done.
        DataError: a size is larger than the pool.
        ModelError: an arm updates a model that does not fit.
    """
    return _Planner(read_plan(config, workspace), resources).plan()


class _Planner:
    def __init__(self, plan: StudyPlan, resources: Resources) -> None:
        config = plan.config
        self._plan = plan
        self._config = config
        self._found = TargetPlan()
        self._execution, self._device = resources.training(config)
        self._settings = TrainingSettings(
            config.target_training,
            config.patches,
            config.augmentation,
            config.seed,
            self._device,
            settled_computing(config, plan.workspace, self._device),
            resources.workers(config, config.target_training.arm_units),
        )

    def plan(self) -> TargetPlan:
        for name, arm in self._config.target_training.arms.items():
            source = SourceInputs.read(self._plan, arm)
            for cell in target_cells(self._plan, name):
                predictions = []
                for fold in cell.folds:
                    trainings = self._trainings(arm, source, cell, fold.learned_from)
                    predictions.append(self._prediction(arm, cell, trainings, self._test_cases(fold)))
                final = [] if cell.final is None else self._trainings(arm, source, cell, cell.final)
                self._arm(name, arm, cell, final, predictions)
        return self._found

    def _trainings(self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]) -> list[Unit]:
        """The trainings of all members on the same patients."""
        return [self._training(arm, source, cell.n, cell.repeat, patients, member) for member in range(arm.members)]

    def _training(
        self, arm: ArmOptions, source: SourceInputs, n: int, repeat: int, patients: Sequence[str], member: int
    ) -> Unit:
        """The training of a member: planned once, whatever arms need it."""
        config, learned = self._config, arm.of_training()
        starts = [(member * arm.components + k) % max(len(source.networks), 1) for k in range(arm.components)]
        recipe = {
            "training": self._plan.digests("pool", patients),
            "classes": self._plan.classes[config.target.dataset],
            "arm": learned.model_dump(mode="json", exclude={"update_from", "network"}),
            "member": member,
            "n": n,
            "repeat": repeat,
            **source.recipe,
            **({"networks": [source.networks[k][0] for k in starts]} if source.networks else {}),
            "steps": config.target_training.steps,
            "floor_rate": config.target_training.floor_rate,
            "likelihood": config.target_training.likelihood.value,
            "optimiser": config.target_training.optimiser.model_dump(mode="json"),
            "network": (arm.network or config.network).model_dump(mode="json"),
            "patches": config.patches.model_dump(mode="json"),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "computing": self._settings.computing.model_dump(mode="json"),
            "seed": config.seed,
            "threads": self._execution.threads,
            "version": 1,
        }
        key = _named(n, repeat, learned, str(member), recipe)
        if key not in self._found.trainings:
            task = TrainingTask(
                learned,
                arm.network or config.network,
                member,
                n,
                repeat,
                {patient: self._plan.cached("pool", patient) for patient in patients},
                [source.networks[k][1] for k in starts] if source.networks else [],
                source.references,
                source.priors,
                source.densities,
                source.groups,
                None if source.updated is None else source.updated.member(member),
            )
            size = arm.components * learned.train_samples * (1.2 if arm.is_bayesian else 1.0)
            arguments = {"task": task, "settings": self._settings}
            self._found.trainings[key] = Unit(TRAININGS, key, recipe, train_member, arguments, size)
        return self._found.trainings[key]

    def _prediction(self, arm: ArmOptions, cell: Cell, trainings: Sequence[Unit], tested: Sequence[CachedCase]) -> Unit:
        config, predicted = self._config, arm.of_prediction()
        basis: dict[str, Any] = {
            "trainings": [training.digest for training in trainings],
            "draws": predicted.draws,
            "posterior": predicted.posterior.model_dump(mode="json"),
            "window": config.sliding_window.model_dump(mode="json"),
            "threads": self._execution.threads,
            "version": 1,
        }
        if config.target.cross_validated:
            # Small subsets of two folds can be equal, and then have two sets of test cases.
            basis["cases"] = [case.name for case in tested]
        # The images are not part of the name: one more test case is one more prediction in the same folder.
        key = _named(cell.n, cell.repeat, predicted, f"x{len(trainings)}", basis)
        if key not in self._found.predictions:
            images = {case.name: self._images[case.name] for case in tested}
            task = PredictionTask(
                predicted,
                [self._folder(training) for training in trainings],
                self._seeds(arm, cell.repeat),
                arm.network or config.network,
                config.patches.size,
                config.sliding_window,
                self._device,
                tested,
                images,
                self._plan.workspace.unit_folder(PREDICTIONS, key),
            )
            recipe = {**basis, "images": images}
            arguments = {"task": task}
            size = float(len(trainings) * (predicted.draws if arm.is_bayesian else 1))
            needs = tuple(training.name for training in trainings)
            self._found.predictions[key] = Unit(
                PREDICTIONS, key, recipe, predict_test_cases, arguments, size, needs=needs
            )
        return self._found.predictions[key]

    def _arm(
        self,
        name: str,
        arm: ArmOptions,
        cell: Cell,
        trainings: Sequence[Unit],
        predictions: Sequence[Unit],
    ) -> None:
        config, dataset = self._config, self._config.target.dataset
        target = config.datasets[dataset]
        origin = ModelOrigin(
            study=config.name,
            modality=target.modality,
            channels=tuple(self._plan.channels[dataset]),
            preprocessing=target.preprocessing,
            network=config.network_of(name),
            patch=config.patches.size,
            window=config.sliding_window,
            flip_axes=config.augmentation.flip_axes,
        )
        recipe = {
            # In full, so that differences from an earlier run can be named; members differ only in their number.
            **({"training": trainings[0].recipe} if trainings else {}),
            "trainings": [training.digest for training in trainings],
            # Of the folds of a cross-validation the first stands for all in words.
            "prediction": predictions[0].recipe,
            "predictions": [prediction.digest for prediction in predictions],
            "arm": arm.model_dump(mode="json"),
            # Without the name of the study, so that renaming a study makes nothing stale; the rest is in the trainings.
            "origin": origin.model_dump(mode="json", include={"modality", "channels", "preprocessing"}),
            "test": self._plan.digests("test", list(self._plan.patients("test"))),
            "version": 1,
        }
        key, patients = arm_key(name, cell.n, cell.repeat), cell.final or ()
        record = ArmRecord(
            arm=name,
            n=cell.n,
            repeat=cell.repeat,
            patients=tuple(patients),
            steps=config.target_training.steps,
            choices=arm,
            objective=objective_name(arm, config.target_training, config.patches),
            trainings=tuple(training.key for training in trainings),
            predictions=tuple(prediction.key for prediction in predictions),
        )
        task = ArmTask(
            record,
            [case for patient in patients for case in self._plan.cached("pool", patient)],
            self._seeds(arm, cell.repeat),
            [self._folder(training) for training in trainings],
            [(self._folder(prediction), prediction.arguments["task"].cases) for prediction in predictions],
            origin,
        )
        needs = tuple(unit.name for unit in (*trainings, *predictions))
        self._found.arms[key] = Unit(Stage.INFER, key, recipe, write_arm, {"task": task}, needs=needs)

    def _seeds(self, arm: ArmOptions, repeat: int) -> list[int]:
        return [member_seed(self._config.seed, repeat, member) for member in range(arm.members)]

    def _folder(self, unit: Unit) -> Path:
        return self._plan.workspace.unit_folder(unit.stage, unit.key)

    def _test_cases(self, fold: Fold) -> list[CachedCase]:
        return [case for patient in fold.tested_on for case in self._plan.cached("test", patient)]

    @cached_property
    def _images(self) -> dict[str, str]:
        # This reports a case that is not preprocessed with the stage to run; a missing file would not.
        self._plan.digests("test", list(self._plan.patients("test")))
        patients = self._plan.patients("test")
        return {case.name: case.image_digest for patient in patients for case in self._plan.cached("test", patient)}


def _named(n: int, repeat: int, arm: ArmOptions, which: str, recipe: Mapping[str, Any]) -> str:
    """Names a training or a prediction after its recipe; the words before the digest are for the reader."""
    words = f"{arm.init.value}-{arm.prior}-{arm.posterior.kind}-{which}"
    return f"{_cell(n, repeat)}/{words}-{digest(recipe)[:_LETTERS]}"
