"""infer: every arm × size × repeat learns the target and predicts the test cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.arms.arm_unit import ArmSettings, ArmTask, learn_and_predict
from pipeline.arms.choices import ArmOptions
from pipeline.arms.incremental_update import require_updatable
from pipeline.config.study import StudyConfig
from pipeline.deployment.model_description import ModelOrigin
from pipeline.stages import collect_filters, fit_priors, train_source
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import StudyPlan, read_plan, target_subsets
from pipeline.stages.target_checks import compare_grids, compare_with_source, refuse_empty_labels, require_kernel_size
from pipeline.storage.units import Unit, require_done
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import snapshot_name

STAGE = "infer"
PREDICTION_CHOICES = ("logit_temperature", "mask", "voxel_correlation")
"""Choices of an arm that its training does not depend on."""


def unit_key(arm: str, n: int, repeat: int) -> str:
    """Key of a unit, e.g. `dwp/n05/repeat-0`."""
    return f"{arm}/n{n:02d}/repeat-{repeat}"


def _arm_inputs(arm: ArmOptions, plan: StudyPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an arm takes from the source: for its recipe, and for its task."""
    config, workspace = plan.config, plan.workspace
    recipe: dict[str, Any] = {}
    inputs: dict[str, Any] = {"snapshots": (), "references": (), "priors": {}, "densities": {}, "groups": {}}
    networks = config.source_training.networks
    if arm.needs_source:
        starts = [number % networks for number in range(arm.members * arm.components)]
        recipe["networks"], inputs["snapshots"] = _snapshots(plan, starts)
    if arm.needs_references:
        recipe["references"], inputs["references"] = _snapshots(plan, range(networks))
    if arm.needs_prior:
        groups, _ = collect_filters.source_groups(plan)
        recipe["priors"] = {g: require_done(workspace, fit_priors.STAGE, g)["digest"] for g in groups}
        chosen = fit_priors.chosen_densities(workspace, groups, arm.prior, config)
        inputs["priors"] = {group: density.path for group, density in chosen.items()}
        inputs["densities"] = {group: density.options for group, density in chosen.items()}
        inputs["groups"] = groups
    if arm.update_from is not None:
        dataset = config.target.dataset
        channels, classes = len(plan.channels[dataset]), len(plan.classes[dataset]) + 1
        recipe["update_from"] = require_updatable(arm.update_from, config.network, channels, classes)
    return recipe, inputs


def _snapshots(plan: StudyPlan, numbers: Iterable[int]) -> tuple[list[str], list[Path]]:
    """Digests and last snapshots of source networks."""
    keys = [train_source.network_key(number) for number in numbers]
    last = snapshot_name(plan.config.source_training.cycles - 1)
    digests = [require_done(plan.workspace, train_source.STAGE, key)["digest"] for key in keys]
    return digests, [plan.workspace.unit_folder(train_source.STAGE, key) / last for key in keys]


def _settings(plan: StudyPlan, device: str, workers: int) -> ArmSettings:
    config, dataset = plan.config, plan.config.target.dataset
    target = config.datasets[dataset]
    origin = ModelOrigin(
        study=config.name,
        modality=target.modality,
        channels=tuple(plan.channels[dataset]),
        preprocessing=target.preprocessing,
    )
    return ArmSettings(
        config.inference,
        config.network,
        config.patches,
        config.augmentation,
        origin,
        config.seed,
        device,
        settled_computing(config, plan.workspace, device),
        workers,
    )


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each arm × its sizes × repeat.

    Raises:
        WorkspaceError: a stage before is not done.
        DataError: a size is larger than the pool.
        ModelError: an arm updates a model that does not fit.
    """
    plan = read_plan(config, workspace)
    execution, device = resources.training(config)
    settings = _settings(plan, device, resources.workers(config, config.inference.trainings))
    test = [case for patient in plan.patients("test") for case in plan.cached("test", patient)]
    common = {
        "test": plan.digests("test", list(plan.patients("test"))),
        # Not the name of the study: a renamed study trains nothing again.
        "origin": settings.origin.model_dump(mode="json", exclude={"study"}),
        "classes": plan.classes[config.target.dataset],
        "options": config.inference.model_dump(mode="json", exclude={"arms", "sizes", "reference_sizes", "repeats"}),
        "network": config.network.model_dump(mode="json"),
        "patches": config.patches.model_dump(mode="json"),
        "augmentation": config.augmentation.model_dump(mode="json"),
        "computing": settings.computing.model_dump(mode="json"),
        "seed": config.seed,
        "threads": execution.threads,
        "version": 4,
    }
    planned = []
    for name, arm in config.inference.arms.items():
        of_source, inputs = _arm_inputs(arm, plan)
        of_arm = {**common, **of_source, "arm": arm_recipe(arm)}
        size = arm.members * arm.components * arm.train_samples * (1.2 if arm.is_bayesian else 1.0)
        for repeat, subset in enumerate(target_subsets(plan, name)):
            for n, patients in subset.items():
                recipe = {**of_arm, "n": n, "repeat": repeat, "training": plan.digests("pool", patients)}
                training = {patient: plan.cached("pool", patient) for patient in patients}
                task = ArmTask(name, arm, n, repeat, training, test, **inputs)
                arguments = {"task": task, "settings": settings}
                planned.append(Unit(STAGE, unit_key(name, n, repeat), recipe, learn_and_predict, arguments, size))
    return planned


def arm_recipe(arm: ArmOptions) -> dict[str, Any]:
    """What an arm's results follow from.

    Choices of prediction are left out where they change nothing: no training is lost to a choice that came later. Where
    they are made, changing them trains again: the model folder of the unit holds them.
    """
    untouched = ArmOptions()
    idle = {name for name in PREDICTION_CHOICES if getattr(arm, name) == getattr(untouched, name)}
    return arm.model_dump(mode="json", exclude=idle)


def refuse_unusable(planned: Sequence[Unit], plan: StudyPlan, strict: bool) -> None:
    """Refuses what would stop or spoil a training, before any of them starts.

    Raises:
        DataError: the label of a target patient is empty, or (`strict`) source and target differ.
        ModelError: a prior was fitted to kernels of another size.
    """
    if strict:
        # Without it, `check` has told the difference.
        compare_with_source(plan.config, strict)
    compare_grids(plan, strict)
    tasks: list[ArmTask] = [unit.arguments["task"] for unit in planned]
    used = {patient: cases for task in tasks for patient, cases in task.patients.items()}
    refuse_empty_labels([case for patient in sorted(used) for case in used[patient]])
    files = {path: task.densities[group] for task in tasks for group, path in task.priors.items()}
    for path, density in files.items():
        require_kernel_size(path, density)


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Trains all arms on all subsets.

    Raises:
        WorkspaceError: a stage before is not done.
        DataError: a size is larger than the pool, a label is empty, or (`strict`) source and target differ.
        ModelError: a prior or a model to be updated does not fit.
        StageError: units failed; the others are kept.
    """
    planned = units(config, workspace, resources)
    refuse_unusable(planned, read_plan(config, workspace), resources.strict)
    complete(STAGE, run_stage(STAGE, planned, workspace, resources.training(config)[0]))
