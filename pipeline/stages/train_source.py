"""train-source: trains B networks, each on a bootstrap sample of the source patients.

translate-source/KIND         what is known of scans to translate source images, with `source.translate`
train-trunk/network           the network that the others branch from, with `source_training.trunk_steps`
train-source/network-NN       the networks
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from data.errors import ConfigError
from data.splits import bootstrap_sample
from models.networks.imported_network import NetworkCodeError
from pipeline.config.study import StudyConfig
from pipeline.execution.processes import rank, world_size
from pipeline.execution.stage import complete, run_in_order, run_stage
from pipeline.execution.unit import Unit, is_done
from pipeline.stages.chosen_backend import memory_elsewhere, runs_elsewhere
from pipeline.stages.pack_units import network_units
from pipeline.stages.resources import Resources
from pipeline.stages.settled_computing import settled_computing
from pipeline.stages.source_translation import translation_unit
from pipeline.stages.study_plan import StudyPlan, read_plan
from pipeline.storage.file_names import TRUNK_UNIT, TRUNKS
from pipeline.storage.workspace import Workspace
from pipeline.training.available_memory import available_memory
from pipeline.training.memory_estimate import estimate_training_memory, require_memory
from pipeline.training.source_network import TRUNK, SourceTask, network_key, snapshot_name, train_source_network
from pipeline.training.source_options import SourceTrainingOptions
from pipeline.training.source_translation import TranslationInputs
from pipeline.training.translation_preparation import TranslationTask

logger = logging.getLogger(__name__)

STAGE = "train-source"


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for the translation of the source and one for the trunk, if there are any, and one for each network.

    Raises:
        WorkspaceError: an earlier stage is not done.
    """
    return [unit for kind in _planned(config, workspace, resources) for unit in kind]


def _planned(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[list[Unit]]:
    """The units by kind, in the order in which they are made; the networks are the last."""
    plan = read_plan(config, workspace)
    if plan.pack is not None:
        return [network_units(plan, plan.pack)]
    options, translation = config.source_training, translation_unit(plan)
    networks, first = _Networks(plan, resources, translation), [] if translation is None else [[translation]]
    if not options.has_trunk:
        numbers = range(options.networks)
        return [*first, [networks.unit(STAGE, network_key(number), number, options) for number in numbers]]
    trunk = networks.unit(TRUNKS, TRUNK_UNIT, TRUNK, options.of_trunk())
    branches = [networks.unit(STAGE, network_key(number), number, options, trunk) for number in range(options.networks)]
    return [*first, [trunk], branches]


class _Networks:
    """The trainings of the networks of a study."""

    def __init__(self, plan: StudyPlan, resources: Resources, translation: Unit | None) -> None:
        config = plan.config
        self._translation = translation
        self._plan = plan
        self._config = config
        self._resources = resources
        self._patients = list(plan.patients("source"))
        self._digests = plan.digests("source", self._patients)
        execution, self._device = resources.training(config)
        self._threads = execution.threads
        self._computing = settled_computing(config, plan.workspace, self._device)

    def unit(
        self, stage: str, key: str, number: int | str, options: SourceTrainingOptions, trunk: Unit | None = None
    ) -> Unit:
        """The training of a network on its own bootstrap sample, from the trunk if it has one."""
        plan, config, translation = self._plan, self._config, self._translation
        sample = bootstrap_sample(self._patients, config.seed, number)
        if trunk is not None:
            sample = sample.after(trunk.arguments["task"].sample)
        task = SourceTask(
            number,
            config.seed,
            sample,
            [plan.cached("source", patient) for patient in sample.drawn],
            [case for patient in sample.out_of_bag for case in plan.cached("source", patient)],
            config.network,
            options,
            config.patches,
            config.augmentation,
            self._computing,
            None if trunk is None else plan.workspace.unit_folder(trunk.stage, trunk.key) / snapshot_name(0),
            None if translation is None else self._translated(translation),
        )
        recipe = {
            "sample": [list(sample.drawn), list(sample.out_of_bag)],
            "cases": self._digests,
            **plan.labels(plan.dataset_of("source")),
            "seed": config.seed,
            "network": config.network.model_dump(mode="json"),
            "options": options.in_recipe(),
            "patches": config.patches.model_dump(mode="json"),
            "augmentation": config.augmentation.model_dump(mode="json"),
            "computing": self._computing.model_dump(mode="json"),
            "threads": self._threads,
            **({} if trunk is None else {"trunk": trunk.digest}),
            **self._of_translation(),
            "version": 3,
        }
        arguments = {
            "task": task,
            "device": self._device,
            "workers": self._resources.workers(config, stage, config.source_training.networks),
            "tracking": config.tracking,
            "checkpoint_steps": config.execution.checkpoint_steps,
            "checkpoint_seconds": 60 * config.execution.checkpoint_minutes,
        }
        needs = tuple(unit.name for unit in (translation, trunk) if unit is not None)
        return Unit(stage, key, recipe, train_source_network, arguments, resumable=True, needs=needs)

    def _translated(self, translation: Unit) -> TranslationInputs:
        """What the training of a network takes from the unit that prepares the translation."""
        task: TranslationTask = translation.arguments["task"]
        return task.inputs(self._plan.workspace.unit_folder(translation.stage, translation.key))

    def _of_translation(self) -> dict[str, Any]:
        """What a network depends on of the translation; one without it keeps the recipe that it had."""
        if self._translation is None:
            return {}
        share = self._translation.arguments["task"].options.share
        return {"translation": {"digest": self._translation.digest, "share": share}}


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Trains the source networks, first of all their trunk, or takes them from the pack.

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
    kinds = _planned(config, workspace, resources)
    if config.source_pack is not None:
        # Of processes that would train together, the first one takes them.
        complete(STAGE, run_stage(STAGE, kinds[-1] if rank() == 0 else [], workspace, execution))
        return
    if not all(is_done(unit, workspace) for kind in kinds for unit in kind):
        _require_memory(config, workspace, execution.jobs, device)
        _warn_of_nobody_left(kinds[-1])
    complete(STAGE, run_in_order(kinds, workspace, execution))


def _warn_of_nobody_left(branches: Sequence[Unit]) -> None:
    """Says which networks will have no Dice, because they or their trunk have seen every patient."""
    unmeasured = [unit.key for unit in branches if unit.needs and not unit.arguments["task"].sample.out_of_bag]
    if unmeasured:
        logger.warning(
            "%s: the trunk and %s have seen every source patient between them, so there is nobody to measure the Dice "
            "of %s on; more source patients would leave some",
            STAGE,
            ", ".join(unmeasured),
            "it" if len(unmeasured) == 1 else "each",
        )


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
