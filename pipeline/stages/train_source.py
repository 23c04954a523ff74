"""train-source: B networks, each on a bootstrap sample of the source patients."""

from __future__ import annotations

from data.splits import bootstrap_sample
from pipeline.config.study import StudyConfig
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import read_plan
from pipeline.storage.units import Unit
from pipeline.storage.workspace import Workspace
from pipeline.training.source_network import train_source_network

STAGE = "train-source"


def network_key(number: int) -> str:
    """Key of a source network's unit."""
    return f"network-{number:02d}"


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each source network.

    Raises:
        WorkspaceError: a stage before is not done.
    """
    plan = read_plan(config, workspace)
    execution, device = resources.training(config)
    patients = list(plan.patients("source"))
    digests = plan.digests("source", patients)
    planned = []
    for number in range(config.source_training.networks):
        sample = bootstrap_sample(patients, config.seed, number)
        settings = {
            "number": number,
            "seed": config.seed,
            "network": config.network,
            "options": config.source_training,
            "patches": config.patches,
            "augmentation": config.augmentation,
            "device": device,
        }
        recipe = {
            "sample": [list(sample.drawn), list(sample.out_of_bag)],
            "cases": digests,
            "classes": plan.classes[config.source.dataset],
            "seed": config.seed,
            "network": config.network.model_dump(mode="json"),
            # One more network must not make those that are there stale.
            "options": config.source_training.model_dump(mode="json", exclude={"networks"}),
            "patches": config.patches.model_dump(mode="json"),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "threads": execution.threads,
            "version": 1,
        }
        arguments = {
            **settings,
            "sample": sample,
            "drawn": [plan.cached("source", patient) for patient in sample.drawn],
            "out_of_bag": [case for patient in sample.out_of_bag for case in plan.cached("source", patient)],
        }
        planned.append(Unit(STAGE, network_key(number), recipe, train_source_network, arguments))
    return planned


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Trains the source networks.

    Raises:
        WorkspaceError: the source cases are not preprocessed.
        StageError: a training stopped; the others are kept.
    """
    complete(STAGE, run_stage(STAGE, units(config, workspace, resources), workspace, resources.training(config)[0]))
