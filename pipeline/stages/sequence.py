"""The stages in their order, and running them."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from enum import StrEnum
from types import ModuleType

from data.errors import ConfigError, WorkspaceError
from pipeline.config.reading import as_yaml
from pipeline.config.study import StudyConfig
from pipeline.processes import rank, world_size
from pipeline.stages.resources import Resources
from pipeline.storage.atomic import write_text
from pipeline.storage.provenance import start_provenance
from pipeline.storage.units import is_done
from pipeline.storage.workspace import Workspace


class Stage(StrEnum):
    """A stage of a study; in this order each needs those before it."""

    CHECK = "check"
    """Are the datasets usable, and who plays which role?"""
    PREPROCESS = "preprocess"
    """From raw scans to network input."""
    TRAIN_SOURCE = "train-source"
    """Networks on bootstrap samples of the source patients."""
    COLLECT_FILTERS = "collect-filters"
    """All 3×3×3 filters of all snapshots, by group of layers."""
    FIT_PRIORS = "fit-priors"
    """Densities over the filters of every group."""
    INFER = "infer"
    """Every arm × size × repeat learns the target."""
    EVALUATE = "evaluate"
    """Dice and IoU of every prediction."""
    REPORT = "report"
    """One page with tables, curves and pictures."""


def run_stages(stages: list[Stage], config: StudyConfig, resources: Resources) -> Workspace:
    """Runs stages in the study's workspace, one command at a time.

    Raises:
        GraftError: a stage cannot be done; what is finished is kept.
    """
    if world_size() > 1 and stages != [Stage.TRAIN_SOURCE]:
        raise ConfigError(
            f"{world_size()} processes for {', '.join(stages)}",
            expected="several processes only for train-source, whose networks they train together",
            fix=f"run `graft {stages[0].value} CONFIG` without a launcher",
        )
    workspace = Workspace(config.workspace_folder)
    # Of processes that train together, the first one keeps the books.
    with workspace.lock() if rank() == 0 else nullcontext():
        if rank() == 0:
            write_text(workspace.resolved_config, as_yaml(config))
            start_provenance(workspace, seed=config.seed, device=resources.device)
        refuse_stale(stages[0], config, workspace, resources)
        for stage in stages:
            _module(stage).run(config, workspace, resources)
    return workspace


def _module(stage: Stage) -> ModuleType:
    # Imported one by one, so that a stage which only trains runs where SimpleITK and nilearn are missing.
    return importlib.import_module(f"pipeline.stages.{stage.value.replace('-', '_')}")


_FROM_THE_WORKSPACE = (Stage.TRAIN_SOURCE, Stage.COLLECT_FILTERS, Stage.FIT_PRIORS, Stage.INFER, Stage.EVALUATE)
"""Stages whose inputs lie in the workspace, so that they can be compared on any machine."""


def refuse_stale(first: Stage, config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Refuses to build on results that were made with another configuration; used before a stage that runs alone.

    The report is not refused: it shows what there is and names what is missing.

    Raises:
        WorkspaceError: a result of an earlier stage is missing, or was made with other settings or inputs.
    """
    if first not in _FROM_THE_WORKSPACE:
        return
    for stage in _FROM_THE_WORKSPACE[: _FROM_THE_WORKSPACE.index(first)]:
        for unit in _module(stage).units(config, workspace, resources):
            if not is_done(unit, workspace):
                folder = workspace.unit_folder(unit.stage, unit.key)
                raise WorkspaceError(
                    f"{folder}: this result of `{stage.value}` is missing, or was made with other settings or inputs",
                    expected="results of this configuration",
                    fix=f"run `graft {stage.value} CONFIG`, or `graft run CONFIG` for all stages",
                )
