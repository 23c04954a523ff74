"""The units of target training: trainings that arms share, predictions of the test cases, and the arms' own folders.

    train-image-model/NAME               an image model that trainings may start from
    train-target/nNN/repeat-R/TRAINING   one member of one way of learning, in one round of self-training
    predict-unlabelled/nNN/repeat-R/…    what the members of a round predict in unlabelled scans, for the next round
    predict-test/nNN/repeat-R/PREDICTION the averages over trained members and their draws, for cases they never saw
    tune-rates/nNN/repeat-R/RATE         the peak rate of an arm, tuned out of fold on its training patients
    keep-rounds/nNN/repeat-R/ROUND       the round of self-training that an arm keeps, chosen likewise
    fit-readings/nNN/repeat-R/READING    how an arm reads, fitted out of fold on its training patients
    infer/ARM/nNN/repeat-R               an arm: the names of its trainings and prediction, and its model

A training is named after what it depends on, so arms that learn alike find the same one, in this run or a later one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.arms.arm_record import PREDICTIONS, PSEUDO_LABELS, RATES, READINGS, ROUNDS, TRAININGS, ArmRecord
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.kept_round import KeptRound, RoundTask, keep_round, read_round
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.pseudo_labels import Teacher
from pipeline.arms.target_training_options import Tuning
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, member_seed, train_member
from pipeline.arms.tuned_rate import RateTask, read_rate, tune_rate
from pipeline.arms.unlabelled_use import NoUnlabelledOptions, SelfTrainingOptions
from pipeline.config.study import StudyConfig
from pipeline.deployment.arm_model import ArmTask, TestedFold, write_arm
from pipeline.deployment.model_description import ModelOrigin
from pipeline.evaluation.fitted_reading import ReadingTask, fit_reading
from pipeline.evaluation.options import CalibrationOptions
from pipeline.execution.unit import Unit, is_done
from pipeline.stages.image_models import image_model_units
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.source_inputs import SourceInputs
from pipeline.stages.study_plan import UNLABELLED, StudyPlan, read_plan
from pipeline.stages.target_cells import Cell, Fold, final_reading_folds, reading_folds, target_cells
from pipeline.stages.target_units import TargetPlan
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


def plan_target(config: StudyConfig, workspace: Workspace, resources: Resources) -> TargetPlan:
    """Plans every arm × its sizes × repeat.

    Where the peak rate of an arm or its round of self-training is yet to be chosen, the plan holds what it is chosen by
    and nothing else of that arm.

    Raises:
        WorkspaceError: an earlier stage is not done, or a tuned rate is damaged.
        DataError: a size is larger than the pool, or an image model has too few scans to learn from.
        ModelError: an arm updates a model that does not fit.
    """
    return _Planner(read_plan(config, workspace), resources).plan()


@dataclass(frozen=True)
class _Settled:
    """An arm at its peak rate and in the round that it keeps, and how and by which unit the round was chosen."""

    arm: ArmOptions
    round: KeptRound
    unit: Unit | None = None


class _Planner:
    def __init__(self, plan: StudyPlan, resources: Resources) -> None:
        config = plan.config
        self._plan = plan
        self._config = config
        self._found = TargetPlan(image_models=image_model_units(plan, resources))
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

    def plan(self) -> TargetPlan:
        for name, arm in self._config.target_training.arms.items():
            source = SourceInputs.read(self._plan, arm, self._found.image_models)
            for cell in target_cells(self._plan, name):
                self._cell(name, arm, source, cell)
        return self._found

    def _cell(self, name: str, arm: ArmOptions, source: SourceInputs, cell: Cell) -> None:
        """An arm at one size in one repeat; or, as long as its rates and rounds are not known, what chooses them."""
        learners = [*(fold.learned_from for fold in cell.folds), *([] if cell.final is None else [cell.final])]
        chosen = {patients: self._settled(arm, source, cell, patients) for patients in learners}
        settled = {patients: own.arm for patients, own in chosen.items() if own is not None}
        if len(settled) < len(chosen):
            return
        final = arm if cell.final is None else settled[cell.final]
        folds = []
        for fold in cell.folds:
            own = settled[fold.learned_from]
            reading = self._reading(own, source, cell, self._inner(cell, fold.learned_from), settled)
            folds.append((self._of_fold(own, source, cell, fold), reading))
        trainings: list[Unit] = []
        reading = None
        if cell.final is not None:
            trainings = self._trainings(final, source, cell, cell.final)
            inner = final_reading_folds(cell.final, cell.folds, self._inner(cell, cell.final))
            reading = self._reading(final, source, cell, inner, settled)
        rounds = [choice for choice in map(chosen.get, learners) if choice is not None]
        self._arm(name, final, cell, trainings, reading, folds, rounds if arm.is_self_trained else [])

    def _of_fold(self, arm: ArmOptions, source: SourceInputs, cell: Cell, fold: Fold) -> Unit:
        """The prediction of a fold's patients by models that learned from the others."""
        return self._prediction(arm, cell, self._trainings(arm, source, cell, fold.learned_from), fold)

    def _inner(self, cell: Cell, patients: Sequence[str]) -> list[Fold]:
        return reading_folds(patients, self._config.target_training.inner_folds, cell.repeat, self._config.seed)

    def _settled(self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]) -> _Settled | None:
        """The arm with the peak rate and the round that these patients speak for; `None` as long as one is unknown.

        Where nothing can be chosen, the last round is kept.
        """
        at_rate = self._at_its_rate(arm, source, cell, patients)
        if at_rate is None:
            return None
        unit = self._kept_round(at_rate, source, cell, patients)
        if unit is None:
            return _Settled(at_rate, KeptRound(kept=at_rate.rounds, dice=(), patients=0))
        if not is_done(unit, self._plan.workspace):
            return None
        found = read_round(self._folder(unit))
        return _Settled(at_rate.at_round(found.kept), found, unit)

    def _kept_round(self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]) -> Unit | None:
        """The choice among the rounds of an arm on inner folds of its training patients; `None` without a choice."""
        inner = self._inner(cell, patients)
        if not arm.rounds or not inner:
            return None
        rounds = [
            [self._of_fold(arm.at_round(number), source, cell, fold) for fold in inner]
            for number in range(arm.rounds + 1)
        ]
        recipe = {
            "predictions": [[own.digest for own in predictions] for predictions in rounds],
            "labels": self._plan.digests("pool", patients),
            "declared": arm.reading.model_dump(mode="json"),
            "version": 1,
        }
        key = _named(cell.n, cell.repeat, arm, "round", recipe)
        tested = [[(self._folder(own), own.arguments["task"].cases) for own in predictions] for predictions in rounds]
        needs = tuple(own.name for predictions in rounds for own in predictions)
        arguments = {"task": RoundTask(tested, arm.reading)}
        return self._found.rounds.setdefault(key, Unit(ROUNDS, key, recipe, keep_round, arguments, needs=needs))

    def _at_its_rate(
        self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]
    ) -> ArmOptions | None:
        """The arm with the peak rate that these patients speak for; `None` as long as that is not known."""
        options, inner = self._config.target_training, self._inner(cell, patients)
        if options.tune is Tuning.OFF or not inner:
            return arm
        # Students learn at the rate of their first teacher: no round is needed to find it.
        first = arm.model_copy(update={"members": 1, "unlabelled": NoUnlabelledOptions()})
        tried = {
            rate: [self._of_fold(first.model_copy(update={"peak_rate": rate}), source, cell, fold) for fold in inner]
            for rate in options.tuned_rates
        }
        recipe = {
            "predictions": [[rate, [own.digest for own in predictions]] for rate, predictions in tried.items()],
            "labels": self._plan.digests("pool", patients),
            "declared": arm.reading.model_dump(mode="json"),
            "version": 1,
        }
        key = _named(cell.n, cell.repeat, arm, "rate", recipe)
        task = RateTask(
            [
                (rate, [(self._folder(own), own.arguments["task"].cases) for own in predictions])
                for rate, predictions in tried.items()
            ],
            arm.reading,
        )
        needs = tuple(own.name for predictions in tried.values() for own in predictions)
        unit = self._found.rates.setdefault(key, Unit(RATES, key, recipe, tune_rate, {"task": task}, needs=needs))
        if not is_done(unit, self._plan.workspace):
            return None
        return arm.model_copy(update={"peak_rate": read_rate(self._folder(unit))})

    def _reading(
        self,
        arm: ArmOptions,
        source: SourceInputs,
        cell: Cell,
        inner: Sequence[Fold],
        settled: Mapping[tuple[str, ...], ArmOptions],
    ) -> Unit | None:
        """The reading that is fitted on out-of-fold predictions of training patients; `None` if none is fitted.

        `settled` has the arm as each fold of the cell chose it, for a model that is fitted on those.
        """
        config = self._config
        if not arm.fit_reading or not inner:
            return None
        patients = [patient for fold in inner for patient in fold.tested_on]
        predictions = [self._of_fold(settled.get(own.learned_from, arm), source, cell, own) for own in inner]
        options = config.evaluation.calibration or CalibrationOptions()
        recipe = {
            "predictions": [prediction.digest for prediction in predictions],
            "labels": self._plan.digests("pool", patients),
            "declared": arm.reading.model_dump(mode="json"),
            "band": options.band,
            "clamp": options.clamp,
            "fit_mask": arm.fit_mask,
            "version": 3,
        }
        key = _named(cell.n, cell.repeat, arm, f"x{arm.members}", recipe)
        if key not in self._found.readings:
            tested = [(own.key, self._folder(own), own.arguments["task"].cases) for own in predictions]
            arguments = {"task": ReadingTask(arm.reading, tested, options, arm.fit_mask)}
            needs = tuple(prediction.name for prediction in predictions)
            self._found.readings[key] = Unit(READINGS, key, recipe, fit_reading, arguments, needs=needs)
        return self._found.readings[key]

    def _trainings(self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]) -> list[Unit]:
        """The trainings of all members on the same patients; of students, those of the last round."""
        if not arm.rounds:
            return [self._training(arm, source, cell.n, cell.repeat, patients, member) for member in range(arm.members)]
        before = arm.at_round(arm.rounds - 1)
        teachers = self._trainings(before, source, cell, patients)
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
        return self._predicted(arm, cell, trainings, cases, PSEUDO_LABELS, self._found.pseudo_labels, named=True)

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
        config, learned = self._config, arm.of_training()
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
            "steps": config.target_training.steps,
            "floor_rate": config.target_training.floor_rate,
            "likelihood": config.target_training.likelihood.value,
            "optimiser": config.target_training.optimiser.in_recipe(),
            "network": (arm.network or config.network).model_dump(mode="json"),
            "patches": config.patches.model_dump(mode="json"),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "computing": self._settings.computing.model_dump(mode="json"),
            "seed": config.seed,
            "threads": self._execution.threads,
            "version": 2,
            **({} if taught is None else {"pseudo_labels": taught[0].digest}),
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
                source.heads,
                None if source.image_model is None else self._folder(source.image_model),
                None if taught is None else self._teacher(*taught),
            )
            size = arm.components * learned.train_samples * (1.2 if arm.is_bayesian else 1.0)
            if isinstance(learned.unlabelled, SelfTrainingOptions):
                size *= 1 + learned.unlabelled.patches / config.patches.batch
            arguments = {"task": task, "settings": self._settings}
            needed = [*([] if source.image_model is None else [source.image_model]), *(taught or ())]
            needs = tuple(unit.name for unit in needed)
            self._found.trainings[key] = Unit(
                TRAININGS, key, recipe, train_member, arguments, size, resumable=True, needs=needs
            )
        return self._found.trainings[key]

    def _teacher(self, pseudo_labels: Unit, before: Unit) -> Teacher:
        return Teacher(self._folder(pseudo_labels), pseudo_labels.arguments["task"].cases, self._folder(before))

    def _prediction(self, arm: ArmOptions, cell: Cell, trainings: Sequence[Unit], fold: Fold) -> Unit:
        """The prediction of the patients that a fold is tested on."""
        # Two folds can leave the same patients to learn from, and then have two sets of test cases.
        named = fold.tested_on != self._test_patients
        return self._predicted(
            arm, cell, trainings, self._tested(fold), PREDICTIONS, self._found.predictions, named=named
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
        config, predicted = self._config, arm.of_prediction()
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
        key = _named(cell.n, cell.repeat, predicted, f"x{len(trainings)}", basis)
        if key not in found:
            images = {case.name: case.image_digest for case in cases}
            task = PredictionTask(
                predicted,
                [self._folder(training) for training in trainings],
                self._seeds(arm, cell.repeat),
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

    def _arm(
        self,
        name: str,
        arm: ArmOptions,
        cell: Cell,
        trainings: Sequence[Unit],
        reading: Unit | None,
        folds: Sequence[tuple[Unit, Unit | None]],
        rounds: Sequence[_Settled],
    ) -> None:
        config, origin = self._config, self._origin(name)
        recipe = {
            # In full, so that differences from an earlier run can be named; members differ only in their number.
            **({"training": trainings[0].recipe} if trainings else {}),
            "trainings": [training.digest for training in trainings],
            # Of the folds of a cross-validation the first stands for all in words.
            "prediction": folds[0][0].recipe if folds else None,
            "predictions": [prediction.digest for prediction, _ in folds],
            "readings": [None if own is None else own.digest for own in (reading, *(own for _, own in folds))],
            "arm": arm.in_recipe(),
            **({"rounds": [own.round.as_json() for own in rounds]} if rounds else {}),
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
            predictions=tuple(prediction.key for prediction, _ in folds),
            kept_rounds=tuple(own.round.kept for own in rounds),
            round_dice=() if not rounds else rounds[0 if cell.final is None else -1].round.dice,
        )
        task = ArmTask(
            record,
            [case for patient in patients for case in self._plan.cached("pool", patient)],
            self._seeds(arm, cell.repeat),
            [self._folder(training) for training in trainings],
            [self._tested_fold(*fold) for fold in folds],
            None if reading is None else self._folder(reading),
            origin,
        )
        made = [*trainings, reading, *(unit for fold in folds for unit in fold), *(own.unit for own in rounds)]
        needs = tuple(dict.fromkeys(unit.name for unit in made if unit is not None))
        self._found.arms[key] = Unit(Stage.INFER, key, recipe, write_arm, {"task": task}, needs=needs)

    def _origin(self, arm: str) -> ModelOrigin:
        """What a model of an arm says of its study."""
        config, dataset = self._config, self._config.target.dataset
        target = config.datasets[dataset]
        return ModelOrigin(
            study=config.name,
            modality=target.modality,
            channels=tuple(self._plan.channels[dataset]),
            preprocessing=target.preprocessing,
            network=config.network_of(arm),
            patch=config.patches.size,
            window=config.sliding_window,
            flip_axes=config.augmentation.flip_axes,
        )

    def _tested_fold(self, prediction: Unit, reading: Unit | None) -> TestedFold:
        cases = prediction.arguments["task"].cases
        return TestedFold(self._folder(prediction), cases, None if reading is None else self._folder(reading))

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
    """Names a training or a prediction after its recipe; the words before the digest are for the reader."""
    words = f"{arm.init.value}-{arm.prior}-{arm.posterior.kind}-{which}"
    return f"{_cell(n, repeat)}/{words}-{digest(recipe)[:_LETTERS]}"
