"""The trunk that the source networks of a workspace branch from, if they do."""

from __future__ import annotations

from pathlib import Path

from pipeline.execution.unit import read_marker
from pipeline.report.study_files import folders
from pipeline.storage.file_names import TRUNK_UNIT, TRUNKS
from pipeline.storage.stage_names import Stage


def trunk_folder(root: Path) -> Path | None:
    """Returns the folder of the trunk; None where networks start by themselves, even if an older trunk lies there."""
    markers = [read_marker(folder) for folder in folders(root / Stage.TRAIN_SOURCE)]
    branching = any("trunk" in marker.get("recipe", {}) for marker in markers if marker is not None)
    return root / TRUNKS / TRUNK_UNIT if branching else None
