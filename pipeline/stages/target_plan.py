"""What the arms of a study need: trainings that they share, predictions of the test cases, and their own folders.

    train-target/nNN/repeat-R/TRAINING   one member of one way of learning
    predict-test/nNN/repeat-R/PREDICTION what trained members and their draws say of the test cases
    infer/ARM/nNN/repeat-R               an arm: which trainings and prediction are its own, and its model

A training is named after what it depends on: arms that learn alike, in this run or a later one, find the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.filters import FilterLayer
from pipeline.arms.arm_record import PREDICTIONS, TRAININGS
from pipeline.arms.choices import ArmOptions
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, member_seed, train_member
from pipeline.config.study import StudyConfig
from pipeline.deployment.arm_model import ArmTask, write_arm
from pipeline.deployment.model_description import ModelOrigin
from pipeline.deployment.updatable_model import UpdatableModel, find_updatable
from pipeline.execution.units import Unit, require_done
from pipeline.stages import collect_filters, fit_priors, train_source
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_cells import Cell, Fold, target_cells
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.digest import digest
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import snapshot_name

_LETTERS = 12
"""Of a digest, in the name of a training or a prediction."""


def arm_key(arm: str, n: int, repeat: int) -> str:
    """Key of an arm's folder, e.g. `dwp/n05/repeat-0`."""
    return f"{arm}/{_cell(n, repeat)}"


def _cell(n: int, repeat: int) -> str:
    return f"n{n:02d}/repeat-{repeat}"


@dataclass
class TargetPlan:
    """The units of the target side of a study, each once.

    Attributes:
        trainings: key → unit.
        predictions: key → unit.
        arms: key → unit.
    """

    trainings: dict[str, Unit] = field(default_factory=dict)
    predictions: dict[str, Unit] = field(default_factory=dict)
    arms: dict[str, Unit] = field(default_factory=dict)

    def tasks(self) -> list[TrainingTask]:
        """What the trainings do."""
        return [unit.arguments["task"] for unit in self.trainings.values()]


def plan_target(config: StudyConfig, workspace: Workspace, resources: Resources) -> TargetPlan:
    """Plans every arm × its sizes × repeat.

    Raises:
        WorkspaceError: a stage before is not done.
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
            source = _OfSource.read(self._plan, arm)
            for cell in target_cells(self._plan, name):
                predictions = []
                for fold in cell.folds:
                    trainings = self._trainings(arm, source, cell, fold.learned_from)
                    predictions.append(self._prediction(arm, cell, trainings, self._test_cases(fold)))
                final = [] if cell.final is None else self._trainings(arm, source, cell, cell.final)
                self._arm(name, arm, cell, final, predictions)
        return self._found

    def _trainings(self, arm: ArmOptions, source: _OfSource, cell: Cell, patients: Sequence[str]) -> list[Unit]:
        """The trainings of all members on the same patients."""
        return [self._training(arm, source, cell.n, cell.repeat, patients, member) for member in range(arm.members)]

    def _training(
        self, arm: ArmOptions, source: _OfSource, n: int, repeat: int, patients: Sequence[str], member: int
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
            # Small subsets of two folds can be alike, and then have two sets of test cases.
            basis["cases"] = [case.name for case in tested]
        # The images are no part of the name: one more test case is one more prediction in the same folder.
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
        )
        recipe = {
            # Whole, so that what differs from an earlier run can be told; the members differ in their number alone.
            **({"training": trainings[0].recipe} if trainings else {}),
            "trainings": [training.digest for training in trainings],
            # Of the folds of a cross-validation the first stands for all in words.
            "prediction": predictions[0].recipe,
            "predictions": [prediction.digest for prediction in predictions],
            "arm": arm.model_dump(mode="json"),
            # Not the name of the study: a renamed study writes nothing again.
            "origin": origin.model_dump(mode="json", exclude={"study"}),
            "test": self._plan.digests("test", list(self._plan.patients("test"))),
            "version": 1,
        }
        key = arm_key(name, cell.n, cell.repeat)
        task = ArmTask(
            name,
            arm,
            objective_name(arm, config.target_training, config.patches),
            cell.n,
            cell.repeat,
            config.target_training.steps,
            {patient: self._plan.cached("pool", patient) for patient in cell.final or ()},
            self._seeds(arm, cell.repeat),
            {training.key: self._folder(training) for training in trainings},
            {
                prediction.key: (self._folder(prediction), prediction.arguments["task"].cases)
                for prediction in predictions
            },
            config.network_of(name),
            config.patches.size,
            config.sliding_window,
            config.augmentation.flip_axes,
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
        # Not preprocessed is a fault that names the stage; a missing file would be none.
        self._plan.digests("test", list(self._plan.patients("test")))
        patients = self._plan.patients("test")
        return {case.name: case.image_digest for patient in patients for case in self._plan.cached("test", patient)}


def _named(n: int, repeat: int, arm: ArmOptions, which: str, recipe: Mapping[str, Any]) -> str:
    """Names a training or a prediction after its recipe; the words before the digest are for people."""
    words = f"{arm.init.value}-{arm.prior}-{arm.posterior.kind}-{which}"
    return f"{_cell(n, repeat)}/{words}-{digest(recipe)[:_LETTERS]}"


@dataclass(frozen=True)
class _OfSource:
    """What an arm takes from the source.

    Attributes:
        recipe: digests of what all its members take.
        networks: digest and last snapshot of each source network, where members start from them.
        references: last snapshots that the prior of the other weights is read from.
        priors: group → file of the fitted density.
        densities: group → options of that density.
        groups: group → layers of the source network.
        updated: model whose posterior is updated, if one is.
    """

    recipe: dict[str, Any]
    networks: Sequence[tuple[str, Path]] = ()
    references: Sequence[Path] = ()
    priors: Mapping[str, Path] = field(default_factory=dict)
    densities: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Sequence[FilterLayer]] = field(default_factory=dict)
    updated: UpdatableModel | None = None

    @classmethod
    def read(cls, plan: StudyPlan, arm: ArmOptions) -> _OfSource:
        """Finds it in the workspace.

        Raises:
            WorkspaceError: a stage before is not done.
            ModelError: the arm updates a model that does not fit.
        """
        config = plan.config
        recipe: dict[str, Any] = {}
        inputs: dict[str, Any] = {}
        numbers = range(config.source_training.networks)
        if arm.needs_source:
            needed = min(arm.members * arm.components, len(numbers))
            inputs["networks"] = _snapshots(plan, numbers[:needed])
        if arm.needs_references:
            references = _snapshots(plan, numbers)
            recipe["references"] = [own for own, _ in references]
            inputs["references"] = [path for _, path in references]
        if arm.needs_prior:
            groups, _ = collect_filters.source_groups(plan)
            chosen = fit_priors.chosen_densities(plan.workspace, groups, arm.prior, config)
            recipe["priors"] = {group: density.digest for group, density in chosen.items()}
            inputs["priors"] = {group: density.path for group, density in chosen.items()}
            inputs["densities"] = {group: density.options for group, density in chosen.items()}
            inputs["groups"] = groups
        if arm.update_from is not None:
            dataset = config.target.dataset
            channels, classes = len(plan.channels[dataset]), len(plan.classes[dataset]) + 1
            inputs["updated"] = find_updatable(
                arm.update_from, TargetNetwork(arm.network or config.network, channels, classes)
            )
            recipe["update_from"] = inputs["updated"].digest
        return cls(recipe, **inputs)


def _snapshots(plan: StudyPlan, numbers: Iterable[int]) -> list[tuple[str, Path]]:
    """Digests and last snapshots of source networks."""
    last = snapshot_name(plan.config.source_training.cycles - 1)
    found = []
    for number in numbers:
        key = train_source.network_key(number)
        own = require_done(plan.workspace, train_source.STAGE, key)["digest"]
        found.append((own, plan.workspace.unit_folder(train_source.STAGE, key) / last))
    return found
