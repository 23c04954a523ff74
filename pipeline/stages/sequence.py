"""The stages in their order, and running them."""

from __future__ import annotations

import importlib
from enum import StrEnum

from pipeline.config.reading import as_yaml
from pipeline.config.study import StudyConfig
from pipeline.stages.resources import Resources
from pipeline.storage.atomic import write_text
from pipeline.storage.provenance import start_provenance
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
    workspace = Workspace(config.workspace_folder)
    with workspace.lock():
        write_text(workspace.resolved_config, as_yaml(config))
        start_provenance(workspace, seed=config.seed, device=resources.device)
        for stage in stages:
            # Imported one by one, so that a stage which only trains runs where SimpleITK and nilearn are missing.
            module = importlib.import_module(f"pipeline.stages.{stage.value.replace('-', '_')}")
            module.run(config, workspace, resources)
    return workspace
