"""evaluate: computes metrics and calibration of every prediction, and the result tables of the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError, WorkspaceError
from pipeline.arms.arm_record import PREDICTIONS, ArmRecord, read_arm
from pipeline.arms.rivals import rivals
from pipeline.config.study import StudyConfig
from pipeline.deployment.model_folder import MODEL_FOLDER, model_digest
from pipeline.evaluation.arm_calibration import ArmCalibration, CalibrationCase
from pipeline.evaluation.calibration_tables import (
    CALIBRATION,
    RELIABILITY,
    CalibrationRow,
    ReliabilityRow,
    write_calibration_csv,
    write_reliability_csv,
)
from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.csv_rows import read_rows, write_rows
from pipeline.evaluation.evaluated_models import EVALUATED, EvaluatedModel, EvaluatedModels, TableSettings
from pipeline.evaluation.label_audit import AUDIT, AuditRow, audit_case
from pipeline.evaluation.native_space import NativeCase, in_native_space, labels_missing
from pipeline.evaluation.options import CalibrationOptions, EvaluationOptions, EvaluationSpace
from pipeline.evaluation.study_results import CASES, TABLES, write_study_results
from pipeline.evaluation.tables import CaseRow, write_cases_csv
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import complete, run_stage
from pipeline.execution.unit import Unit, read_marker, require_done
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction, prediction_name
from pipeline.stages import infer
from pipeline.stages.cohorts import read_datasets
from pipeline.stages.resources import Resources
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_cells import Cell, target_cells
from pipeline.stages.target_plan import arm_key
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import FILES
from pipeline.storage.owned_folder import owned_files, require_own_unchanged
from pipeline.storage.workspace import Workspace

STAGE = "evaluate"


@dataclass(frozen=True)
class ReadPrediction:
    """A prediction and how it is read.

    Attributes:
        key: of the prediction.
        folder: that holds it.
        reading: how the arm reads it.
    """

    key: str
    folder: Path
    reading: ReadingOptions

    def load(self, case: CachedCase) -> CalibrationCase:
        """Reads what was predicted of a case, beside its annotation."""
        return CalibrationCase.of(load_prediction(self.folder / prediction_name(case.name)), case, self.reading)

    def predicted(self, cases: Sequence[CachedCase]) -> list[CachedCase]:
        """Those of the cases that it holds.

        Raises:
            WorkspaceError: it is missing or damaged.
        """
        marker = read_marker(self.folder)
        if marker is None:
            raise WorkspaceError(
                f"{self.folder}: this prediction of patients that an arm learned from is missing or damaged",
                expected=f"a finished `{infer.STAGE}` stage",
                fix=f"run `graft {infer.STAGE} CONFIG`, or `graft run CONFIG` for all stages",
            )
        images = marker["recipe"]["images"]
        return [case for case in cases if case.name in images]


def evaluate_predictions(
    folder: Path,
    progress: ProgressFile,
    *,
    tested: Sequence[tuple[ReadPrediction, CachedCase]],
    inner_folds: Sequence[ReadPrediction],
    learned_from: Sequence[CachedCase],
    trained: TrainedArm,
    native: Mapping[str, NativeCase],
    options: EvaluationOptions,
    seed: int,
) -> None:
    """Measures the test cases of one trained arm in native space or, without `native`, on the preprocessed grid.

    The annotations of the cases that are `tested` and of those that the arm `learned_from` are compared with
    predictions of models that never saw them; the latter's are in the `inner_folds`.

    Raises:
        WorkspaceError: a prediction is missing or damaged.
    """
    inner = [(fold, case) for fold in inner_folds for case in fold.predicted(learned_from)]
    rows: list[CaseRow] = []
    audit: list[AuditRow] = []
    calibration = None if options.calibration is None else ArmCalibration(trained, options.calibration, seed)
    clamp = (options.calibration or CalibrationOptions()).clamp
    for position, (stored, case) in enumerate(tested):
        predicted = stored.load(case)
        measured = _measure(predicted, case, native.get(case.name), trained, options)
        rows += measured
        audit += audit_case(predicted, trained, stored.key, clamp)
        if calibration is not None:
            calibration.add(predicted.with_dice({row.label: row.dice for row in measured}))
        progress((position + 1) / (len(tested) + len(inner)))
    for position, (stored, case) in enumerate(inner, start=len(tested)):
        audit += audit_case(stored.load(case), trained, stored.key, clamp)
        progress((position + 1) / (len(tested) + len(inner)))
    write_cases_csv(rows, folder / CASES)
    write_rows(folder / AUDIT, AuditRow, audit)
    if calibration is not None:
        scored, curve = calibration.finish()
        write_calibration_csv(scored, folder / CALIBRATION)
        write_reliability_csv(curve, folder / RELIABILITY)


def _measure(
    predicted: CalibrationCase,
    case: CachedCase,
    native: NativeCase | None,
    trained: TrainedArm,
    options: EvaluationOptions,
) -> list[CaseRow]:
    prediction, reference, spacing = predicted.prediction, predicted.reference, predicted.spacing
    if native is not None:
        carried, drawn = in_native_space(
            predicted.probability, case.affine, native, case.folder, predicted.thresholds, predicted.rules
        )
        prediction, reference = carried.array, drawn.array
        x, y, z = (float(step) for step in drawn.spacing)
        spacing = (x, y, z)
    return evaluate_case(
        prediction,
        reference,
        {name: number for number, name in enumerate(case.classes, start=1)},
        spacing,
        heads=case.heads,
        trained=trained,
        case=case.name,
        patient=case.patient,
        options=options,
    )


def native_cases(config: StudyConfig, workspace: Workspace, plan: StudyPlan) -> dict[str, NativeCase]:
    """Finds the raw labels of the test cases; none if the study is evaluated on the preprocessed grid.

    Raises:
        WorkspaceError: a raw label is not available; names the key that avoids the need for it.
    """
    if config.evaluation.space is not EvaluationSpace.NATIVE:
        return {}
    name = config.target.dataset
    try:
        dataset = read_datasets(config, workspace)[name]
        cases = [dataset.case(case) for of_patient in plan.patients("test").values() for case in of_patient]
    except DataError as error:
        raise labels_missing(error.found) from error
    chain = config.datasets[name].preprocessing
    ignored = plan.ignored.get(name, ())
    found = {
        case.name: NativeCase(case, tuple(plan.channels[name]), chain, plan.classes[name], ignored) for case in cases
    }
    for case in found.values():
        case.require_label()
    return found


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each arm × its sizes × repeat.

    Raises:
        WorkspaceError: an earlier stage is not done, or raw labels are needed but not available.
    """
    plan = read_plan(config, workspace)
    native = native_cases(config, workspace, plan)
    options = _options(config)
    # Raw labels are read from the dataset; the digests of those on the preprocessed grid are part of the arms'.
    labels = {name: workspace.file_digests.of_files(own.label_files()) for name, own in native.items()}
    workspace.file_digests.save()
    planned = []
    for arm in config.target_training.arms:
        for cell in target_cells(plan, arm):
            key = arm_key(arm, cell.n, cell.repeat)
            digest = require_done(workspace, infer.STAGE, key)["digest"]
            record = read_arm(workspace.unit_folder(infer.STAGE, key))
            recipe = {
                "arm": digest,
                "options": options.model_dump(mode="json", exclude={"resamples", "rivals"}),
                "seed": config.seed,
                # Left out on the preprocessed grid, where earlier evaluations have no such key.
                **({"labels": labels} if labels else {}),
                "version": 7,
            }
            inner_folds, learned_from = _learned_from(plan, record)
            arguments = {
                "tested": _tested(plan, cell, record),
                "inner_folds": inner_folds,
                "learned_from": learned_from,
                "trained": TrainedArm(arm, cell.n, cell.repeat),
                "native": native,
                "options": options,
                "seed": config.seed,
            }
            planned.append(Unit(STAGE, key, recipe, evaluate_predictions, arguments))
    return planned


def _tested(plan: StudyPlan, cell: Cell, record: ArmRecord) -> list[tuple[ReadPrediction, CachedCase]]:
    """The test cases of a cell, in the order of the plan, each with the prediction that holds it."""
    found = {
        patient: ReadPrediction(key, plan.workspace.unit_folder(PREDICTIONS, key), reading)
        for fold, (key, reading) in zip(cell.folds, record.read_predictions(), strict=True)
        for patient in fold.tested_on
    }
    return [(found[patient], case) for patient in plan.patients("test") for case in plan.cached("test", patient)]


def _learned_from(plan: StudyPlan, record: ArmRecord) -> tuple[list[ReadPrediction], list[CachedCase]]:
    """The predictions that a reading was fitted on, and all cases that the arm learned from, which they hold."""
    if plan.config.target.cross_validated:
        # All its patients are tested.
        return [], []
    folds = [
        ReadPrediction(key, plan.workspace.unit_folder(PREDICTIONS, key), record.choices.reading)
        for key in record.reading_predictions
    ]
    return folds, [case for patient in record.patients for case in plan.cached("pool", patient)] if folds else []


def _options(config: StudyConfig) -> EvaluationOptions:
    """The options of the evaluation.

    In cross-validation, no temperature is fitted to the predictions of other patients: the models that made them
    learned from the patient whose probabilities would be scaled.
    """
    options = config.evaluation
    if not config.target.cross_validated or options.calibration is None:
        return options
    return options.model_copy(update={"calibration": options.calibration.model_copy(update={"temperature_scaled": ()})})


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Measures every prediction and writes the tables of `results/`.

    Raises:
        WorkspaceError: an arm of the study is not trained, or somebody has changed a table since it was written.
    """
    require_own_unchanged(workspace.results, FILES)
    measured = units(config, workspace, resources)
    complete(STAGE, run_stage(STAGE, measured, workspace, resources.execution(config)))
    folders = [workspace.unit_folder(STAGE, unit.key) for unit in measured]
    folds = read_plan(config, workspace).folds
    # While the tables are being written, no record may describe them.
    (workspace.results / EVALUATED).unlink(missing_ok=True)
    judged = folders if config.evaluation.calibration is not None else []
    with owned_files(workspace.results, FILES, of_before=TABLES) as results:
        write_study_results(
            results,
            [row for folder in folders for row in read_rows(folder / CASES, CaseRow)],
            [row for folder in judged for row in read_rows(folder / CALIBRATION, CalibrationRow)],
            [row for folder in judged for row in read_rows(folder / RELIABILITY, ReliabilityRow)],
            [row for folder in folders for row in read_rows(folder / AUDIT, AuditRow)],
            options=config.evaluation,
            rivals=rivals(config.target_training.arms, config.evaluation.rivals),
            seed=config.seed,
            folds=folds,
        )
    evaluated_models(config, workspace, measured).write(workspace.results)


def evaluated_models(config: StudyConfig, workspace: Workspace, measured: Sequence[Unit]) -> EvaluatedModels:
    """The models and settings behind the tables of these evaluations."""
    models = {unit.key: workspace.unit_folder(infer.STAGE, unit.key) / MODEL_FOLDER for unit in measured}
    digests = {key: model_digest(folder) if folder.is_dir() else None for key, folder in models.items()}
    settings = TableSettings(
        resamples=config.evaluation.resamples,
        rivals=rivals(config.target_training.arms, config.evaluation.rivals),
        seed=config.seed,
        folds=read_plan(config, workspace).folds,
    )
    return EvaluatedModels(
        units={unit.key: EvaluatedModel(model=digests[unit.key], evaluation=unit.digest) for unit in measured},
        settings=settings,
    )
