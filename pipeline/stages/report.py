"""report: builds a self-contained page from the files of the workspace."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline.config.study import StudyConfig
from pipeline.report.build import build_report
from pipeline.stages.resources import Resources
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)


def run(config: StudyConfig, workspace: Workspace, resources: Resources, stale: Sequence[str] = ()) -> None:
    """Builds `report/index.html` and the pages of the cases; sections whose files are missing say so.

    The page starts with the sentences in `stale`, on results that were made with other settings or inputs.

    Raises:
        WorkspaceError: the tables are missing or damaged.
    """
    for sentence in stale:
        logger.warning("%s", sentence)
    build_report(workspace.root, config.report, jobs=resources.execution(config).jobs, stale=stale)
