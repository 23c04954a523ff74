"""evaluate: Dice, IoU and surface distances of every prediction, gathered into two tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.arms.arm_unit import PREDICTIONS
from pipeline.arms.prediction import predicted_classes
from pipeline.config.study import StudyConfig
from pipeline.evaluation.case_evaluation import Trained, evaluate_case
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.tables import read_cases_csv, summarise, write_cases_csv, write_summary_csv
from pipeline.progress import ProgressFile
from pipeline.stages import infer
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import read_plan
from pipeline.storage.tensors import load_tensors
from pipeline.storage.units import Unit, require_done
from pipeline.storage.workspace import Workspace
from pipeline.training.cached_case import CachedCase

STAGE = "evaluate"
CASES = "cases.csv"


def evaluate_predictions(
    folder: Path,
    progress: ProgressFile,
    *,
    predictions: Path,
    trained: Trained,
    cases: Sequence[CachedCase],
    options: EvaluationOptions,
) -> None:
    """Measures the test cases of one trained arm on the preprocessed grid."""
    rows = []
    for position, case in enumerate(cases):
        probability = load_tensors(predictions / f"{case.name}.safetensors", names=["probability"])["probability"]
        x, y, z = case.spacing
        rows += evaluate_case(
            predicted_classes(probability).numpy(),
            case.label().numpy(),
            {name: number for number, name in enumerate(case.classes, start=1)},
            (float(x), float(y), float(z)),
            trained=trained,
            case=case.name,
            patient=case.patient,
            policy=options.empty_masks,
            tolerance=options.surface_tolerance,
        )
        progress((position + 1) / len(cases))
    write_cases_csv(rows, folder / CASES)


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each arm × size × repeat.

    Raises:
        WorkspaceError: a stage before is not done.
    """
    plan = read_plan(config, workspace)
    test = [case for patient in plan.patients("test") for case in plan.cached("test", patient)]
    planned = []
    for arm in config.inference.arms:
        for n in config.inference.sizes:
            for repeat in range(config.inference.repeats):
                key = infer.unit_key(arm, n, repeat)
                recipe = {
                    "predictions": require_done(workspace, infer.STAGE, key)["digest"],
                    "options": config.evaluation.model_dump(mode="json", exclude={"resamples"}),
                    "version": 1,
                }
                arguments = {
                    "predictions": workspace.unit_folder(infer.STAGE, key) / PREDICTIONS,
                    "trained": Trained(arm, n, repeat),
                    "cases": test,
                    "options": config.evaluation,
                }
                planned.append(Unit(STAGE, key, recipe, evaluate_predictions, arguments))
    return planned


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Measures every prediction and writes `results/cases.csv` and `results/summary.csv`.

    Raises:
        WorkspaceError: an arm of the study is not trained.
    """
    measured = units(config, workspace, resources)
    complete(STAGE, run_stage(STAGE, measured, workspace, resources.execution(config)))
    rows = [row for u in measured for row in read_cases_csv(workspace.unit_folder(STAGE, u.key) / CASES)]
    write_cases_csv(rows, workspace.results / CASES)
    write_summary_csv(summarise(rows, config.seed, config.evaluation.resamples), workspace.results / "summary.csv")
