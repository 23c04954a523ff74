"""infer: trains the image models, then every arm × size × repeat on the target, and predicts the test cases."""

from __future__ import annotations

import logging

from pipeline.config.study import StudyConfig
from pipeline.execution.stage import complete, run_in_order
from pipeline.execution.unit import Unit, is_done
from pipeline.execution.units import Execution
from pipeline.stages.older_layout import refuse_older_layout
from pipeline.stages.resources import Resources
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.stages.target_checks import compare_grids, compare_with_source, refuse_empty_labels, require_kernel_size
from pipeline.stages.target_plan import TargetPlan, plan_target
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
    kinds = (list(plan.image_models.values()), needed_trainings(plan, workspace), *plan.in_order())
    return [unit for kind in kinds for unit in kind]


def needed_trainings(plan: TargetPlan, workspace: Workspace) -> list[Unit]:
    """Trainings that are finished, and those that an unfinished prediction or arm needs."""
    waiting = [unit for kind in plan.in_order() for unit in kind if not is_done(unit, workspace)]
    needed = {name for unit in waiting for name in unit.needs}
    return [unit for unit in plan.trainings.values() if unit.name in needed or is_done(unit, workspace)]


def refuse_unusable(target: TargetPlan, plan: StudyPlan, strict: bool) -> None:
    """Refuses inputs that would stop or spoil a training, before any training starts.

    Raises:
        DataError: the label of a target patient is empty, or (`strict`) source and target differ.
        ModelError: a prior was fitted to kernels of another size.
    """
    if strict:
        # Otherwise `check` has reported the difference.
        compare_with_source(plan, strict)
    compare_grids(plan, strict)
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
    if not all(is_done(unit, workspace) for unit in target.rates.values()):
        logger.info("%s: tuning %d rates", STAGE, len(target.rates))
        _carry_out(target, workspace, execution)
        target = _usable_plan(config, workspace, resources)
    logger.info(
        "%s: %s%d trainings and %d predictions for %d arms, sizes and repeats",
        STAGE,
        f"{len(target.image_models)} image models, " if target.image_models else "",
        len(target.trainings),
        len(target.predictions),
        len(target.arms),
    )
    _carry_out(target, workspace, execution)


def _usable_plan(config: StudyConfig, workspace: Workspace, resources: Resources) -> TargetPlan:
    target = plan_target(config, workspace, resources)
    refuse_older_layout(workspace, STAGE, target.arms, only_now="prediction")
    refuse_unusable(target, read_plan(config, workspace), resources.strict)
    return target


def _carry_out(target: TargetPlan, workspace: Workspace, execution: Execution) -> None:
    kinds = (list(target.image_models.values()), needed_trainings(target, workspace), *target.in_order())
    complete(STAGE, run_in_order(kinds, workspace, execution))
