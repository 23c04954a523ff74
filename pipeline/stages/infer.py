"""infer: trains the image models, then every arm × size × repeat on the target, and predicts the test cases."""

from __future__ import annotations

import logging
from dataclasses import replace

from pipeline.config.study import StudyConfig
from pipeline.execution.stage import complete, run_in_order
from pipeline.execution.unit import Outcome, Unit, is_done
from pipeline.execution.units import Execution, StageRun
from pipeline.stages.older_layout import refuse_older_layout
from pipeline.stages.resources import Resources
from pipeline.stages.same_task import require_same_task
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_checks import compare_grids, compare_with_source, refuse_empty_labels, require_kernel_size
from pipeline.stages.target_plan import plan_target
from pipeline.stages.target_units import TargetPlan, in_levels
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

STAGE = "infer"


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each arm × its sizes × repeat, the predictions that they read, and the image models.

    A training whose arms and predictions are done is no longer needed, and may have been deleted.

    Raises:
        WorkspaceError: an earlier stage is not done.
        DataError: a size is larger than the pool.
        ModelError: an arm updates a model that does not fit.
    """
    plan = plan_target(config, workspace, resources)
    return [unit for kind in (*reversed(plan.in_order()), list(plan.image_models.values())) for unit in kind]


def units_to_run(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """All units that the stage would run or find done, trainings among them, in their order.

    Raises:
        GraftError: as `units`.
    """
    plan = plan_target(config, workspace, resources)
    kinds = (list(plan.image_models.values()), plan.learning(workspace), *plan.in_order())
    return [unit for kind in kinds for unit in kind]


def refuse_unusable(target: TargetPlan, plan: StudyPlan, strict: bool) -> None:
    """Refuses inputs that would stop or spoil a training, before any training starts.

    Raises:
        DataError: the label of a target patient is empty, the source is of another task and an arm needs the same, or
            (`strict`) source and target differ.
        ModelError: a prior was fitted to kernels of another size.
    """
    if strict:
        # Otherwise `check` has reported the difference.
        compare_with_source(plan, strict)
    compare_grids(plan, strict)
    require_same_task(plan)
    tasks = target.tasks()
    used = {patient: cases for task in tasks for patient, cases in task.patients.items()}
    refuse_empty_labels([case for patient in sorted(used) for case in used[patient]])
    files = {path: task.densities[group] for task in tasks for group, path in task.priors.items()}
    for path, density in files.items():
        require_kernel_size(path, density)


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Trains all arms on all subsets, predicts the test cases and writes the models.

    Raises:
        WorkspaceError: an earlier stage is not done, or `infer/` holds results of an older layout.
        DataError: a size is larger than the pool, a label is empty, or (`strict`) source and target differ.
        ModelError: a prior or a model to be updated does not fit.
        StageError: units failed; the others are kept.
    """
    execution = resources.training(config)[0]
    target = _usable_plan(config, workspace, resources)
    failed: set[tuple[str, str]] = set()
    failures: list[Outcome] = []
    # Rates come first, and rounds are chosen at these rates. What fails must not stop the arms that go on.
    while any(not is_done(unit, workspace) and unit.name not in failed for unit in target.chooses()):
        logger.info("%s: choosing %d rates and %d rounds", STAGE, len(target.rates), len(target.rounds))
        run = _carry_out(target, workspace, execution, failed)
        failures += run.failures
        if run.count("stopped"):
            complete(STAGE, run)
        target = _usable_plan(config, workspace, resources)
    logger.info(
        "%s: %s%d trainings and %d predictions for %d arms, sizes and repeats",
        STAGE,
        f"{len(target.image_models)} image models, " if target.image_models else "",
        len(target.trainings),
        len(target.predictions),
        len(target.arms),
    )
    run = _carry_out(target, workspace, execution, failed)
    complete(STAGE, replace(run, outcomes=(*failures, *run.outcomes)))


def _usable_plan(config: StudyConfig, workspace: Workspace, resources: Resources) -> TargetPlan:
    target = plan_target(config, workspace, resources)
    refuse_older_layout(workspace, STAGE, target.arms, only_now="prediction")
    refuse_unusable(target, read_plan(config, workspace), resources.strict)
    return target


def _carry_out(
    target: TargetPlan, workspace: Workspace, execution: Execution, failed: set[tuple[str, str]]
) -> StageRun:
    learning = in_levels(target.learning(workspace))
    kinds = (list(target.image_models.values()), *learning, *target.in_order())
    return run_in_order(kinds, workspace, execution, failed)
