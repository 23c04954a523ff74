"""Refuses to overwrite results of versions in which arms did not share trainings."""

from __future__ import annotations

from collections.abc import Iterable

from data.errors import WorkspaceError
from pipeline.execution.unit import read_marker
from pipeline.storage.workspace import Workspace

_NOW = {
    "fit-priors": "densities in fit-priors/GROUP/DENSITY/",
    "infer": "trainings in train-target/, predictions in predict-test/ and models in infer/",
}


def refuse_older_layout(workspace: Workspace, stage: str, keys: Iterable[str], only_now: str | None = None) -> None:
    """Refuses to write where an older version left results.

    Args:
        workspace: of the study.
        stage: `fit-priors` or `infer`.
        keys: folders below the stage's that an older version filled.
        only_now: key that only recipes of this version have; `None` if this version writes nothing there.

    Raises:
        WorkspaceError: there are such results; nothing is deleted.
    """
    for key in keys:
        marker = read_marker(workspace.unit_folder(stage, key))
        if marker is not None and only_now not in marker.get("recipe", {}):
            raise WorkspaceError(
                f"{workspace.root / stage}: holds results of an older layout, which this version cannot use",
                expected=_NOW[stage],
                fix=f"move {stage}/ out of the workspace to keep it, then run the same command again to replace it",
            )
