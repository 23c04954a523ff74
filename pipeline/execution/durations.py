"""How long units take, from those that are done."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.execution.unit import MARKER, Unit
from pipeline.storage.owned_folder import read_manifest
from pipeline.storage.workspace import Workspace


def seconds_per_size(units: Iterable[Unit], workspace: Workspace) -> float | None:
    """Seconds of work for each unit of size, from the markers of units of one kind; `None` if none was ever done.

    Units that were done with other settings count, too: an estimate from them is better than none.
    """
    seconds = size = 0.0
    for unit in units:
        marker = read_manifest(workspace.unit_folder(unit.stage, unit.key) / MARKER)
        if marker is not None and "seconds" in marker:
            seconds += float(marker["seconds"])
            size += unit.size
    return seconds / size if size > 0 else None
