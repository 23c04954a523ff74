"""Runs the stages in their order."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from data.errors import ConfigError
from pipeline.config.reading import as_yaml
from pipeline.config.study import StudyConfig
from pipeline.execution.ledger import noted_command
from pipeline.execution.processes import rank, world_size
from pipeline.execution.provenance import start_provenance
from pipeline.stages.needed_stages import absent_stages, needless_stages
from pipeline.stages.resources import Resources
from pipeline.stages.stale_results import refuse_stale, stage_module, stale_for_report
from pipeline.storage.atomic import write_text
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)


def run_stages(stages: list[Stage], config: StudyConfig, resources: Resources) -> Workspace:
    """Runs stages in the study's workspace; if there are several, those that the study does not need are skipped.

    Raises:
        GraftError: a stage fails; finished work is kept.
    """
    if world_size() > 1 and stages != [Stage.TRAIN_SOURCE]:
        raise ConfigError(
            f"{world_size()} processes for {', '.join(stages)}",
            expected="several processes only for train-source, whose networks they train together",
            fix=f"run `graft {stages[0].value} CONFIG` without a launcher",
        )
    workspace = Workspace(config.workspace_folder)
    # Of processes that train together, only the first locks and writes the workspace.
    with workspace.lock() if rank() == 0 else nullcontext():
        if stages != [Stage.REPORT]:
            refuse_stale(stages[0], config, workspace, resources)
            if rank() == 0:
                _note(config, workspace, resources)
        with noted_command(workspace, stages) if rank() == 0 else nullcontext():
            _run(stages, config, workspace, resources)
    return workspace


def _run(stages: list[Stage], config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    if stages == [Stage.REPORT]:
        _report_alone(config, workspace, resources)
        return
    needless = needless_stages(config) if len(stages) > 1 else absent_stages(config)
    for stage in stages:
        if stage in needless:
            logger.info("%s: skipped, because %s", stage.value, needless[stage])
        else:
            stage_module(stage).run(config, workspace, resources)


def _note(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    write_text(workspace.resolved_config, as_yaml(config))
    start_provenance(workspace, seed=config.seed, device=resources.device)


def _report_alone(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Builds the report of results of earlier commands.

    If they were made with another configuration, that one stays in the workspace, so that the page describes what it
    shows.
    """
    stale = stale_for_report(config, workspace, resources)
    if not stale or not workspace.resolved_config.is_file():
        _note(config, workspace, resources)
    stage_module(Stage.REPORT).run(config, workspace, resources, stale)
