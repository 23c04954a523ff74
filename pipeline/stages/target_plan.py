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
from typing import Any

from pipeline.arms.arm_record import RATES, READINGS, ROUNDS, ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.arms.kept_round import KeptRound, RoundTask, keep_round, read_round
from pipeline.arms.objective_name import objective_name
from pipeline.arms.target_training_options import Tuning
from pipeline.arms.tuned_rate import RateTask, read_rate, tune_rate
from pipeline.arms.unlabelled_use import NoUnlabelledOptions
from pipeline.arms.without_annotation import is_source_alone
from pipeline.config.study import StudyConfig
from pipeline.deployment.arm_model import ArmTask, TestedFold, write_arm
from pipeline.deployment.model_description import ModelOrigin
from pipeline.evaluation.fitted_reading import ReadingTask, fit_reading
from pipeline.evaluation.options import CalibrationOptions
from pipeline.execution.unit import Unit, is_done
from pipeline.stages.image_models import image_gate_units
from pipeline.stages.resources import Resources
from pipeline.stages.source_inputs import SourceInputs
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_cells import Cell, Fold, final_reading_folds, reading_folds, target_cells
from pipeline.stages.target_learning import LearningPlanner, cell_key, named_key
from pipeline.stages.target_units import TargetPlan
from pipeline.storage.file_names import GATE
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace


def arm_key(arm: str, n: int, repeat: int) -> str:
    """Key of an arm's folder, e.g. `dwp/n05/repeat-0`."""
    return f"{arm}/{cell_key(n, repeat)}"


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
        self._plan = plan
        self._config = plan.config
        self._learning = LearningPlanner(plan, resources)
        self._found = self._learning.found
        self._found.gates.update(image_gate_units(plan, resources, self._found.image_models))
        self._device = resources.training(plan.config)[1]

    def plan(self) -> TargetPlan:
        for name, arm in self._config.target_training.arms.items():
            source = SourceInputs.read(self._plan, arm, self._found.image_models)
            for cell in target_cells(self._plan, name):
                self._cell(name, arm, source, cell)
        return self._found

    def _cell(self, name: str, arm: ArmOptions, source: SourceInputs, cell: Cell) -> None:
        """An arm at one size in one repeat; or, as long as its rates and rounds are not known, what chooses them."""
        every = [*(fold.learned_from for fold in cell.folds), *([] if cell.final is None else [cell.final])]
        # With test patients, the models of the fold and of the cell are the same.
        learners = list(dict.fromkeys(every))
        chosen = {patients: self._settled(arm, source, cell, patients) for patients in learners}
        settled = {patients: own.arm for patients, own in chosen.items() if own is not None}
        if len(settled) < len(chosen):
            return
        final = arm if cell.final is None else settled[cell.final]
        folds = []
        for fold in cell.folds:
            own = settled[fold.learned_from]
            reading = self._reading(own, source, cell, self._inner(cell, fold.learned_from), settled)
            folds.append((self._learning.of_fold(own, source, cell, fold), reading))
        trainings: list[Unit] = []
        reading = None
        if cell.final is not None:
            trainings = self._learning.trainings(final, source, cell, cell.final)
            inner = final_reading_folds(cell.final, cell.folds, self._inner(cell, cell.final))
            reading = self._reading(final, source, cell, inner, settled)
        rounds = [choice for choice in map(chosen.get, learners) if choice is not None]
        self._arm(name, final, cell, trainings, reading, folds, rounds if arm.is_self_trained else [])

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
        found = read_round(self._learning.folder(unit))
        return _Settled(at_rate.at_round(found.kept), found, unit)

    def _kept_round(self, arm: ArmOptions, source: SourceInputs, cell: Cell, patients: Sequence[str]) -> Unit | None:
        """The choice among the rounds of an arm on inner folds of its training patients; `None` without a choice."""
        inner = self._inner(cell, patients)
        if not arm.rounds or not inner:
            return None
        rounds = [
            [self._learning.of_fold(arm.at_round(number), source, cell, fold) for fold in inner]
            for number in range(arm.rounds + 1)
        ]
        recipe = {
            "predictions": [[own.digest for own in predictions] for predictions in rounds],
            "labels": self._plan.digests("pool", patients),
            "declared": arm.reading.model_dump(mode="json"),
            "version": 1,
        }
        key = named_key(cell.n, cell.repeat, arm, "round", recipe)
        tested = [
            [(self._learning.folder(own), own.arguments["task"].cases) for own in predictions] for predictions in rounds
        ]
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
            rate: [
                self._learning.of_fold(first.model_copy(update={"peak_rate": rate}), source, cell, fold)
                for fold in inner
            ]
            for rate in options.tuned_rates
        }
        recipe = {
            "predictions": [[rate, [own.digest for own in predictions]] for rate, predictions in tried.items()],
            "labels": self._plan.digests("pool", patients),
            "declared": arm.reading.model_dump(mode="json"),
            "version": 1,
        }
        key = named_key(cell.n, cell.repeat, arm, "rate", recipe)
        task = RateTask(
            [
                (rate, [(self._learning.folder(own), own.arguments["task"].cases) for own in predictions])
                for rate, predictions in tried.items()
            ],
            arm.reading,
        )
        needs = tuple(own.name for predictions in tried.values() for own in predictions)
        unit = self._found.rates.setdefault(key, Unit(RATES, key, recipe, tune_rate, {"task": task}, needs=needs))
        if not is_done(unit, self._plan.workspace):
            return None
        return arm.model_copy(update={"peak_rate": read_rate(self._learning.folder(unit))})

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
        predictions = [self._learning.of_fold(settled.get(own.learned_from, arm), source, cell, own) for own in inner]
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
        key = named_key(cell.n, cell.repeat, arm, f"x{arm.members}", recipe)
        if key not in self._found.readings:
            tested = [(own.key, self._learning.folder(own), own.arguments["task"].cases) for own in predictions]
            arguments = {"task": ReadingTask(arm.reading, tested, options, arm.fit_mask)}
            needs = tuple(prediction.name for prediction in predictions)
            self._found.readings[key] = Unit(READINGS, key, recipe, fit_reading, arguments, needs=needs)
        return self._found.readings[key]

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
        gates = list(self._found.gates.values()) if trainings else []
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
            **({"gates": [own.digest for own in gates]} if gates else {}),
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
            steps=0 if is_source_alone(arm, cell.n) else config.target_training.steps,
            choices=arm,
            objective=objective_name(arm, cell.n, config.target_training, config.patches),
            trainings=tuple(training.key for training in trainings),
            predictions=tuple(prediction.key for prediction, _ in folds),
            **_told_of_rounds(rounds, cell.final is not None),
        )
        task = ArmTask(
            record,
            self._plan.classes[config.target.dataset],
            [case for patient in patients for case in self._plan.cached("pool", patient)],
            self._learning.seeds(arm, cell.repeat),
            [self._learning.folder(training) for training in trainings],
            [self._tested_fold(*fold) for fold in folds],
            None if reading is None else self._learning.folder(reading),
            origin,
            self._device,
            [self._learning.folder(own) / GATE for own in gates],
        )
        made = [*trainings, *gates, reading, *(unit for fold in folds for unit in fold), *(own.unit for own in rounds)]
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
        return TestedFold(
            self._learning.folder(prediction), cases, None if reading is None else self._learning.folder(reading)
        )


def _told_of_rounds(rounds: Sequence[_Settled], has_model: bool) -> dict[str, Any]:
    """What the record of an arm says of its rounds; nothing of other arms."""
    if not rounds:
        return {}
    shown = rounds[-1 if has_model else 0].round
    return {"kept_rounds": tuple(own.round.kept for own in rounds), "round_dice": shown.dice}
