"""report: one self-contained page from the files of the workspace."""

from __future__ import annotations

import logging
import time

from pipeline.config.study import StudyConfig
from pipeline.report.build import build_report
from pipeline.stages.resources import Resources
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Builds `report/index.html` and the pages of the cases; sections whose files are missing say so.

    Raises:
        WorkspaceError: the tables are missing or damaged.
    """
    start = time.perf_counter()
    path = build_report(workspace.root, config.report, jobs=resources.execution(config).jobs)
    logger.info("report: %s (%.1f s)", path, time.perf_counter() - start)
