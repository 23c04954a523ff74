"""train-source: trains B networks, each on a bootstrap sample of the source patients."""

from __future__ import annotations

import logging

from data.errors import ConfigError
from data.splits import bootstrap_sample
from models.networks.imported_network import NetworkCodeError
from pipeline.config.study import StudyConfig
from pipeline.execution.processes import rank, world_size
from pipeline.execution.stage import complete, run_stage
from pipeline.execution.unit import Unit, is_done
from pipeline.stages.chosen_backend import memory_elsewhere, runs_elsewhere
from pipeline.stages.pack_units import network_units
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.study_plan import read_plan
from pipeline.storage.workspace import Workspace
from pipeline.training.available_memory import available_memory
from pipeline.training.memory_estimate import estimate_training_memory, require_memory
from pipeline.training.source_network import SourceTask, network_key, train_source_network

logger = logging.getLogger(__name__)

STAGE = "train-source"


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each source network.

    Raises:
        WorkspaceError: an earlier stage is not done.
    """
    plan = read_plan(config, workspace)
    if plan.pack is not None:
        return network_units(plan, plan.pack)
    execution, device = resources.training(config)
    computing = settled_computing(config, workspace, device)
    patients = list(plan.patients("source"))
    digests = plan.digests("source", patients)
    planned = []
    for number in range(config.source_training.networks):
        sample = bootstrap_sample(patients, config.seed, number)
        task = SourceTask(
            number,
            config.seed,
            sample,
            [plan.cached("source", patient) for patient in sample.drawn],
            [case for patient in sample.out_of_bag for case in plan.cached("source", patient)],
            config.network,
            config.source_training,
            config.patches,
            config.augmentation,
            computing,
        )
        recipe = {
            "sample": [list(sample.drawn), list(sample.out_of_bag)],
            "cases": digests,
            **plan.labels(plan.dataset_of("source")),
            "seed": config.seed,
            "network": config.network.model_dump(mode="json"),
            "options": config.source_training.in_recipe(),
            "patches": config.patches.model_dump(mode="json"),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "computing": computing.model_dump(mode="json"),
            "threads": execution.threads,
            "version": 3,
        }
        arguments = {
            "task": task,
            "device": device,
            "workers": resources.workers(config, STAGE, config.source_training.networks),
            "tracking": config.tracking,
            "checkpoint_steps": config.execution.checkpoint_steps,
            "checkpoint_seconds": 60 * config.execution.checkpoint_minutes,
        }
        planned.append(Unit(STAGE, network_key(number), recipe, train_source_network, arguments, resumable=True))
    return planned


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Trains the source networks, or takes them from the pack.

    Raises:
        PackError: a network of the pack is damaged.
        TrainingError: the training would not fit into memory.
        ConfigError: the processes that train together cannot share a batch evenly.
        WorkspaceError: the source cases are not preprocessed.
        StageError: a training stopped; the others are kept.
    """
    if config.patches.batch % world_size():
        raise ConfigError(
            f"`patches.batch: {config.patches.batch}` for {world_size()} processes",
            expected="a multiple of the processes, which share every batch",
            fix=f"set it to {config.patches.batch // world_size() * world_size() or world_size()}",
        )
    execution, device = resources.training(config)
    planned = units(config, workspace, resources)
    if config.source_pack is not None:
        # Of processes that would train together, the first one takes them.
        complete(STAGE, run_stage(STAGE, planned if rank() == 0 else [], workspace, execution))
        return
    if not all(is_done(unit, workspace) for unit in planned):
        _require_memory(config, workspace, execution.jobs, device)
    complete(STAGE, run_stage(STAGE, planned, workspace, execution))


def _require_memory(config: StudyConfig, workspace: Workspace, jobs: int, device: str) -> None:
    """Refuses trainings that would not fit into memory, before any starts."""
    plan = read_plan(config, workspace)
    share = config.patches.model_copy(update={"batch": config.patches.batch // world_size()})
    try:
        estimate = estimate_training_memory(
            config.network,
            len(plan.source_channels),
            plan.source_outputs,
            share,
            precision=settled_computing(config, workspace, device).precision,
            device=device,
        )
    except NetworkCodeError as error:
        logger.info("%s: the memory of a training is not estimated: %s", STAGE, error.found)
        return
    logger.info("%s: %s", STAGE, estimate.describe())
    if runs_elsewhere(config.execution):
        if (room := memory_elsewhere(config.execution, STAGE, device)) is not None:
            require_memory(estimate, room)
        return
    at_a_time = world_size() if device == "cpu" and world_size() > 1 else min(jobs, config.source_training.networks)
    require_memory(estimate, available_memory(device), at_a_time)
