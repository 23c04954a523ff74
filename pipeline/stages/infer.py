"""infer: every arm × size × repeat learns the target and predicts the test cases."""

from __future__ import annotations

from typing import Any

from data.splits import nested_subsets
from pipeline.arms.arm_unit import ArmTask, learn_and_predict
from pipeline.arms.choices import ArmOptions
from pipeline.config.study import StudyConfig
from pipeline.stages import collect_filters, fit_priors, train_source
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.storage.units import Unit, require_done
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import snapshot_name

STAGE = "infer"


def unit_key(arm: str, n: int, repeat: int) -> str:
    """Key of a unit, e.g. `dwp/n05/repeat-0`."""
    return f"{arm}/n{n:02d}/repeat-{repeat}"


def _arm_inputs(arm: ArmOptions, plan: StudyPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an arm takes from the source: for its recipe, and for its task."""
    config, workspace = plan.config, plan.workspace
    recipe: dict[str, Any] = {}
    inputs: dict[str, Any] = {"snapshots": (), "priors": {}, "density": None, "groups": {}}
    if arm.needs_source:
        keys = [train_source.network_key(number % config.source_training.networks) for number in range(arm.members)]
        recipe["networks"] = [require_done(workspace, train_source.STAGE, key)["digest"] for key in keys]
        last = snapshot_name(config.source_training.cycles - 1)
        inputs["snapshots"] = [workspace.unit_folder(train_source.STAGE, key) / last for key in keys]
    if arm.needs_prior:
        groups, _ = collect_filters.source_groups(plan)
        recipe["priors"] = {g: require_done(workspace, fit_priors.STAGE, g)["digest"] for g in groups}
        name = fit_priors.prior_name(arm.prior)
        inputs["priors"] = {g: workspace.unit_folder(fit_priors.STAGE, g) / name for g in groups}
        inputs["density"] = config.priors.densities[arm.prior]
        inputs["groups"] = groups
    return recipe, inputs


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each arm × size × repeat.

    Raises:
        WorkspaceError: a stage before is not done.
    """
    plan = read_plan(config, workspace)
    execution, device = resources.training(config)
    shared = {
        "network": config.network,
        "patches": config.patches,
        "augmentation": config.augmentation,
        "seed": config.seed,
        "device": device,
    }
    test = [case for patient in plan.patients("test") for case in plan.cached("test", patient)]
    test_digests = plan.digests("test", list(plan.patients("test")))
    subsets = [
        nested_subsets(list(plan.patients("pool")), config.inference.sizes, repeat, config.seed)
        for repeat in range(config.inference.repeats)
    ]
    planned = []
    for name, arm in config.inference.arms.items():
        of_source, inputs = _arm_inputs(arm, plan)
        for repeat, subset in enumerate(subsets):
            for n, patients in subset.items():
                recipe = {
                    **of_source,
                    "arm": arm.model_dump(mode="json"),
                    "n": n,
                    "repeat": repeat,
                    "training": plan.digests("pool", patients),
                    "test": test_digests,
                    "classes": plan.classes[config.target.dataset],
                    "options": config.inference.model_dump(mode="json", exclude={"arms", "sizes", "repeats"}),
                    "network": config.network.model_dump(mode="json"),
                    "patches": config.patches.model_dump(mode="json"),
                    "augmentation": config.augmentation.model_dump(mode="json"),
                    "seed": config.seed,
                    "threads": execution.threads,
                    "version": 1,
                }
                training = {patient: plan.cached("pool", patient) for patient in patients}
                task = ArmTask(name, arm, n, repeat, training, test, **inputs)
                arguments = {"task": task, "options": config.inference, **shared}
                size = arm.members * (1.2 if arm.is_bayesian else 1.0)
                planned.append(Unit(STAGE, unit_key(name, n, repeat), recipe, learn_and_predict, arguments, size))
    return planned


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Trains all arms on all subsets.

    Raises:
        WorkspaceError: a stage before is not done.
        DataError: a size is larger than the pool.
        StageError: units failed; the others are kept.
    """
    complete(STAGE, run_stage(STAGE, units(config, workspace, resources), workspace, resources.training(config)[0]))
