"""A unit: the smallest piece of work, done completely or not at all, and its done-marker.

A unit works in a temporary folder; its marker is written last, and the folder gets its final name in one step, so a
folder with that name is always complete, whenever the process or the machine stops. The marker holds a digest of all
that determines the result (the unit's part of the configuration, the digests of its inputs, the version of the stage);
a unit whose marker agrees is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import WorkspaceError
from pipeline.storage.digest import digest
from pipeline.storage.owned_folder import Changed, read_manifest
from pipeline.storage.workspace import Workspace

MARKER = "done.json"


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        stage: the folder of its kind in the workspace; most stages have one kind of unit, named like the stage.
        key: its name in the stage and its folder below the stage's, e.g. `dwp/n05/repeat-0`.
        recipe: all that determines the result, JSON-able.
        work: a module-level function `work(folder, progress, **arguments)` that fills the folder.
        arguments: of `work`, picklable.
        size: its duration in any unit common to the stage; large units start first.
        resumable: whether the work saves checkpoints in its folder and resumes from them.
        changed: what to do with its files if somebody changed them.
        needs: stage and key of each unit whose files it reads, if the same command makes both.
    """

    stage: str
    key: str
    recipe: Mapping[str, Any]
    work: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: float = 1.0
    resumable: bool = False
    changed: Changed = Changed.REPLACE
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> tuple[str, str]:
        """Stage and key."""
        return self.stage, self.key

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe."""
        return digest({"stage": self.stage, "key": self.key, "recipe": self.recipe})


@dataclass(frozen=True)
class Outcome:
    """How a unit ended.

    Attributes:
        key: the unit's key.
        state: `done`, `reused`, `stopped` or `failed`.
        seconds: wall time of the work.
        peak_memory: largest resident size of its process so far, in bytes.
        message: for a failure, one sentence.
        trace: for a failure that the user cannot fix, the traceback.
    """

    key: str
    state: str
    seconds: float = 0.0
    peak_memory: int = 0
    message: str = ""
    trace: str = ""


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Returns the marker of a finished unit whose files all exist with the recorded sizes, else `None`."""
    marker = read_manifest(folder / MARKER)
    try:
        if marker is None or any((folder / n).stat().st_size != size for n, size in marker["files"].items()):
            return None
    except (OSError, KeyError):
        return None
    return marker


def is_done(unit: Unit, workspace: Workspace) -> bool:
    """Whether the unit was finished with this recipe and its files exist.

    They must have the size that they were written with, unless users may edit them.
    """
    folder = workspace.unit_folder(unit.stage, unit.key)
    if unit.changed is Changed.REFUSE:
        marker = read_manifest(folder / MARKER)
        there = marker is not None and all((folder / name).exists() for name in marker.get("files", ()))
    else:
        marker = read_marker(folder)
        there = marker is not None
    return there and marker is not None and marker.get("digest") == unit.digest


def require_done(workspace: Workspace, stage: str, key: str) -> dict[str, Any]:
    """Returns the marker of a unit that a later stage needs.

    Raises:
        WorkspaceError: the unit is missing or damaged.
    """
    folder = workspace.unit_folder(stage, key)
    marker = read_marker(folder)
    if marker is None:
        raise WorkspaceError(
            f"{folder}: this result of `{stage}` is missing or damaged",
            expected=f"a finished `{stage}` stage",
            fix=f"run `graft {stage} CONFIG`, or `graft run CONFIG` for all stages",
        )
    return marker
