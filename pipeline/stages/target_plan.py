"""What the arms of a study need: trainings that they share, predictions of the test cases, and their own folders.

    train-target/nNN/repeat-R/TRAINING   one member of one way of learning
    predict-test/nNN/repeat-R/PREDICTION what trained members and their draws say of cases that they never saw
    fit-readings/nNN/repeat-R/READING    temperature and correlation, fitted out of fold on an arm's training patients
    infer/ARM/nNN/repeat-R               an arm: which trainings and prediction are its own, and its model

A training is named after what it depends on: arms that learn alike, in this run or a later one, find the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data.splits import draw_folds
from models.filters import FilterLayer
from pipeline.arms.arm_record import PREDICTIONS, READINGS, TRAININGS
from pipeline.arms.choices import ArmOptions
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, member_seed, train_member
from pipeline.config.study import StudyConfig
from pipeline.deployment.arm_model import ArmTask, TestedFold, write_arm
from pipeline.deployment.model_description import ModelOrigin
from pipeline.deployment.updatable_model import UpdatableModel, find_updatable
from pipeline.evaluation.fitted_reading import ReadingTask, fit_reading
from pipeline.evaluation.options import CalibrationOptions
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

FEWEST_TO_FIT = 3
"""Training patients that a reading is fitted on; of two, each inner fold would learn from one."""
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
        readings: key → unit.
        arms: key → unit.
    """

    trainings: dict[str, Unit] = field(default_factory=dict)
    predictions: dict[str, Unit] = field(default_factory=dict)
    readings: dict[str, Unit] = field(default_factory=dict)
    arms: dict[str, Unit] = field(default_factory=dict)

    def in_order(self) -> tuple[list[Unit], ...]:
        """Predictions, what is fitted on them, and arms: what comes after the trainings."""
        return list(self.predictions.values()), list(self.readings.values()), list(self.arms.values())

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
                predictions = [self._of_fold(arm, source, cell, fold) for fold in cell.folds]
                readings = [self._reading(arm, source, cell, fold.learned_from) for fold in cell.folds]
                final = [] if cell.final is None else self._trainings(arm, source, cell, cell.final)
                reading = None if cell.final is None else self._reading(arm, source, cell, cell.final)
                self._arm(name, arm, cell, final, reading, list(zip(predictions, readings, strict=True)))
        return self._found

    def _of_fold(self, arm: ArmOptions, source: _OfSource, cell: Cell, fold: Fold) -> Unit:
        """The prediction of a fold's patients by models that learned from the others."""
        trainings = self._trainings(arm, source, cell, fold.learned_from)
        return self._prediction(arm, cell, trainings, fold)

    def _reading(self, arm: ArmOptions, source: _OfSource, cell: Cell, patients: Sequence[str]) -> Unit | None:
        """The reading that is fitted on out-of-fold predictions of training patients; `None` where none is."""
        config = self._config
        folds = min(config.target_training.inner_folds, len(patients))
        if not arm.fit_reading or folds < 2 or len(patients) < FEWEST_TO_FIT:
            return None
        parts = draw_folds(patients, folds, cell.repeat, config.seed)
        inner = [Fold(tuple(p for p in patients if p not in part), part) for part in parts]
        predictions = [self._of_fold(arm, source, cell, fold) for fold in inner]
        options = config.evaluation.calibration or CalibrationOptions()
        recipe = {
            "predictions": [prediction.digest for prediction in predictions],
            "labels": self._plan.digests("pool", patients),
            "declared": arm.reading.model_dump(mode="json"),
            "band": options.band,
            "clamp": options.clamp,
            "version": 1,
        }
        key = _named(cell.n, cell.repeat, arm, f"x{arm.members}", recipe)
        if key not in self._found.readings:
            tested = [(self._folder(own), own.arguments["task"].cases) for own in predictions]
            arguments = {"task": ReadingTask(arm.reading, tested, options)}
            needs = tuple(prediction.name for prediction in predictions)
            self._found.readings[key] = Unit(READINGS, key, recipe, fit_reading, arguments, needs=needs)
        return self._found.readings[key]

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

    def _prediction(self, arm: ArmOptions, cell: Cell, trainings: Sequence[Unit], fold: Fold) -> Unit:
        config, predicted = self._config, arm.of_prediction()
        basis: dict[str, Any] = {
            "trainings": [training.digest for training in trainings],
            "draws": predicted.draws,
            "posterior": predicted.posterior.model_dump(mode="json"),
            "window": config.sliding_window.model_dump(mode="json"),
            "threads": self._execution.threads,
            "version": 1,
        }
        tested = self._tested(fold)
        if fold.tested_on != self._test_patients:
            # Two folds can leave the same patients to learn from, and then have two sets of test cases.
            basis["cases"] = [case.name for case in tested]
        # The images are no part of the name: one more test case is one more prediction in the same folder.
        key = _named(cell.n, cell.repeat, predicted, f"x{len(trainings)}", basis)
        if key not in self._found.predictions:
            images = {case.name: case.image_digest for case in tested}
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
        reading: Unit | None,
        folds: Sequence[tuple[Unit, Unit | None]],
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
            "prediction": folds[0][0].recipe,
            "predictions": [prediction.digest for prediction, _ in folds],
            "readings": [None if own is None else own.digest for own in (reading, *(own for _, own in folds))],
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
                prediction.key: TestedFold(
                    self._folder(prediction),
                    prediction.arguments["task"].cases,
                    None if own is None else self._folder(own),
                )
                for prediction, own in folds
            },
            None if reading is None else self._folder(reading),
            config.network_of(name),
            config.patches.size,
            config.sliding_window,
            config.augmentation.flip_axes,
            origin,
        )
        made = [*trainings, reading, *(unit for fold in folds for unit in fold)]
        needs = tuple(dict.fromkeys(unit.name for unit in made if unit is not None))
        self._found.arms[key] = Unit(Stage.INFER, key, recipe, write_arm, {"task": task}, needs=needs)

    def _seeds(self, arm: ArmOptions, repeat: int) -> list[int]:
        return [member_seed(self._config.seed, repeat, member) for member in range(arm.members)]

    def _folder(self, unit: Unit) -> Path:
        return self._plan.workspace.unit_folder(unit.stage, unit.key)

    @cached_property
    def _test_patients(self) -> tuple[str, ...]:
        """Test patients of the study; none in cross-validation."""
        return () if self._config.target.cross_validated else tuple(self._plan.patients("test"))

    def _tested(self, fold: Fold) -> list[CachedCase]:
        """The cases that a fold is tested on.

        Raises:
            WorkspaceError: one is not preprocessed; a missing file would not name the stage.
        """
        pool = self._plan.patients("pool")
        roles = {patient: "pool" if patient in pool else "test" for patient in fold.tested_on}
        for patient, role in roles.items():
            self._plan.digests(role, [patient])
        return [case for patient, role in roles.items() for case in self._plan.cached(role, patient)]


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
