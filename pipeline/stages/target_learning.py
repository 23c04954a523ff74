"""The trainings and predictions of target training: each is planned once, whatever arms need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.arms.arm_record import PREDICTIONS, PSEUDO_LABELS, TRAININGS
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.pseudo_labels import Teacher
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, member_seed, train_member
from pipeline.arms.unlabelled_use import SelfTrainingOptions
from pipeline.arms.without_annotation import is_source_alone, of_source_alone
from pipeline.execution.unit import Unit
from pipeline.stages.image_models import image_model_units
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.source_inputs import SourceInputs
from pipeline.stages.study_plan import UNLABELLED, StudyPlan
from pipeline.stages.target_cells import Cell, Fold
from pipeline.stages.target_units import TargetPlan
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.digest import digest

_LETTERS = 12
"""Letters of a digest in the name of a training or a prediction."""
_SIZE_OF_A_COPY = 1e-3
"""Of a source network that is taken as it is, in trainings of a point estimate."""


def cell_key(n: int, repeat: int) -> str:
    """Folder of a size in a repeat, e.g. `n05/repeat-0`."""
    return f"n{n:02d}/repeat-{repeat}"


class LearningPlanner:
    """Plans trainings and predictions.

    Args:
        plan: of the study.
        resources: of the command.

    Attributes:
        found: the units so far, and the image models that trainings start from.
    """

    def __init__(self, plan: StudyPlan, resources: Resources) -> None:
        config = plan.config
        self._plan = plan
        self._config = config
        self.found = TargetPlan(image_models=image_model_units(plan, resources))
        self._execution, self._device = resources.training(config)
        self._settings = TrainingSettings(
            config.target_training,
            config.patches,
            config.augmentation,
            config.seed,
            self._device,
            settled_computing(config, plan.workspace, self._device),
            resources.workers(config, TRAININGS, config.target_training.arm_units),
            config.execution.checkpoint_steps,
            60 * config.execution.checkpoint_minutes,
        )

    def trainings(self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]) -> list[Unit]:
        """The trainings of all members on the same patients; of students, those of the last round."""
        cell = _told_apart(arm, cell)
        if not arm.rounds:
            return [self._training(arm, source, cell.n, cell.repeat, patients, member) for member in range(arm.members)]
        before = arm.at_round(arm.rounds - 1)
        teachers = self.trainings(before, source, cell, patients)
        taught = self._pseudo_labels(before, cell, teachers)
        return [
            self._training(arm, source, cell.n, cell.repeat, patients, member, (taught, teacher))
            for member, teacher in enumerate(teachers)
        ]

    def _pseudo_labels(self, arm: ArmOptions, cell: Cell, trainings: Sequence[Unit]) -> Unit:
        """What the members of a round predict in all unlabelled scans."""
        patients = self._plan.patients(UNLABELLED)
        self._plan.digests(UNLABELLED, list(patients))
        cases = [case for patient in patients for case in self._plan.cached(UNLABELLED, patient)]
        return self._predicted(arm, cell, trainings, cases, PSEUDO_LABELS, self.found.pseudo_labels, named=True)

    def _training(
        self,
        arm: ArmOptions,
        source: SourceInputs,
        n: int,
        repeat: int,
        patients: Sequence[str],
        member: int,
        taught: tuple[Unit, Unit] | None = None,
    ) -> Unit:
        """The training of a member: planned once, whatever arms need it.

        `taught` has a student's pseudo-labels and the training of the same member in the round before.
        """
        config, alone = self._config, is_source_alone(arm, n)
        learned = of_source_alone(arm) if alone else arm.of_training()
        starts = list(range(len(source.networks)))
        if arm.init is not Initialisation.BRANCHES:
            starts = [(member * arm.components + k) % max(len(source.networks), 1) for k in range(arm.components)]
        recipe = {
            "training": self._plan.digests("pool", patients),
            **self._plan.labels(config.target.dataset),
            "arm": learned.in_recipe("update_from", "network", "image_model"),
            "member": member,
            "n": n,
            "repeat": repeat,
            **source.recipe,
            **({"networks": [source.networks[k][0] for k in starts]} if source.networks else {}),
            "network": (arm.network or config.network).model_dump(mode="json"),
            **({} if alone else self._optimisation()),
            "version": 2,
            **({} if taught is None else {"pseudo_labels": taught[0].digest}),
        }
        key = named_key(n, repeat, learned, str(member), recipe)
        if key not in self.found.trainings:
            task = TrainingTask(
                learned,
                self._plan.target_network(arm.network or config.network),
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
                source.heads,
                None if source.image_model is None else self.folder(source.image_model),
                None if taught is None else self._teacher(*taught),
            )
            arguments = {"task": task, "settings": self._settings}
            needed = [*([] if source.image_model is None else [source.image_model]), *(taught or ())]
            needs = tuple(unit.name for unit in needed)
            self.found.trainings[key] = Unit(
                TRAININGS, key, recipe, train_member, arguments, self._size(task), resumable=True, needs=needs
            )
        return self.found.trainings[key]

    def _optimisation(self) -> dict[str, Any]:
        """How members are trained, as a recipe holds it."""
        config = self._config
        return {
            "steps": config.target_training.steps,
            "floor_rate": config.target_training.floor_rate,
            "likelihood": config.target_training.likelihood.value,
            "optimiser": config.target_training.optimiser.in_recipe(),
            "patches": config.patches.model_dump(mode="json"),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "computing": self._settings.computing.model_dump(mode="json"),
            "seed": config.seed,
            "threads": self._execution.threads,
        }

    def _size(self, task: TrainingTask) -> float:
        """Duration of a training, in trainings of a point estimate on annotated scans alone."""
        if not task.learns:
            return _SIZE_OF_A_COPY
        size = task.arm.components * task.arm.train_samples * (1.2 if task.arm.is_bayesian else 1.0)
        if isinstance(task.arm.unlabelled, SelfTrainingOptions):
            size *= 1 + task.arm.unlabelled.patches / self._config.patches.batch
        return size

    def _teacher(self, pseudo_labels: Unit, before: Unit) -> Teacher:
        return Teacher(self.folder(pseudo_labels), pseudo_labels.arguments["task"].cases, self.folder(before))

    def _prediction(self, arm: ArmOptions, cell: Cell, trainings: Sequence[Unit], fold: Fold) -> Unit:
        """The prediction of the patients that a fold is tested on."""
        # Two folds can leave the same patients to learn from, and then have two sets of test cases.
        named = fold.tested_on != self._test_patients
        return self._predicted(
            arm, cell, trainings, self._tested(fold), PREDICTIONS, self.found.predictions, named=named
        )

    def _predicted(
        self,
        arm: ArmOptions,
        cell: Cell,
        trainings: Sequence[Unit],
        cases: Sequence[CachedCase],
        kind: str,
        found: dict[str, Unit],
        *,
        named: bool,
    ) -> Unit:
        """A prediction: planned once, whatever needs it; `named` after its cases where others could be meant."""
        config, predicted, cell = self._config, arm.of_prediction(), _told_apart(arm, cell)
        basis: dict[str, Any] = {
            "trainings": [training.digest for training in trainings],
            "draws": predicted.draws,
            "posterior": predicted.posterior.model_dump(mode="json"),
            "window": config.sliding_window.model_dump(mode="json"),
            "threads": self._execution.threads,
            "version": 2,
        }
        if named:
            basis["cases"] = [case.name for case in cases]
        # The images are not part of the name: one more test case is one more prediction in the same folder.
        key = named_key(cell.n, cell.repeat, predicted, f"x{len(trainings)}", basis)
        if key not in found:
            images = {case.name: case.image_digest for case in cases}
            task = PredictionTask(
                predicted,
                [self.folder(training) for training in trainings],
                self.seeds(arm, cell.repeat),
                arm.network or config.network,
                config.patches.size,
                config.sliding_window,
                self._device,
                cases,
                images,
                self._plan.workspace.unit_folder(kind, key),
            )
            recipe = {**basis, "images": images}
            arguments = {"task": task}
            size = float(len(trainings) * (predicted.draws if arm.is_bayesian else 1))
            needs = tuple(training.name for training in trainings)
            found[key] = Unit(kind, key, recipe, predict_test_cases, arguments, size, needs=needs)
        return found[key]

    def of_fold(self, arm: ArmOptions, source: SourceInputs, cell: Cell, fold: Fold) -> Unit:
        """The prediction of a fold's patients by models that learned from the others."""
        return self._prediction(arm, cell, self.trainings(arm, source, cell, fold.learned_from), fold)

    def seeds(self, arm: ArmOptions, repeat: int) -> list[int]:
        """Seeds of the members' draws."""
        return [member_seed(self._config.seed, repeat, member) for member in range(arm.members)]

    def folder(self, unit: Unit) -> Path:
        """The folder of a unit."""
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


def _told_apart(arm: ArmOptions, cell: Cell) -> Cell:
    """The cell under whose name an arm is trained and predicts: where it learns nothing, all repeats are the first."""
    return replace(cell, repeat=0) if is_source_alone(arm, cell.n) else cell


def named_key(n: int, repeat: int, arm: ArmOptions, which: str, recipe: Mapping[str, Any]) -> str:
    """Names a training or a prediction after its recipe; the words before the digest are for the reader."""
    words = f"{arm.init.value}-{arm.prior}-{arm.posterior.kind}-{which}"
    return f"{cell_key(n, repeat)}/{words}-{digest(recipe)[:_LETTERS]}"
