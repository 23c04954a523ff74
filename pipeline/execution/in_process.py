"""Units in the command's own process, one after another: for debuggers, and for processes that train together."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.execution.backend import Work
from pipeline.execution.unit import Outcome
from pipeline.execution.worker import run_unit
from pipeline.storage.workspace import Workspace


class InProcessBackend:
    """Runs units where it is called."""

    def run(self, work: Work) -> Iterator[Outcome]:
        """Runs the units one after another."""
        yield from (run_unit(*work.call(unit)) for unit in work.units)

    def still_works(self, stage: str, workspace: Workspace) -> bool:
        """Never: its units end with their command."""
        return False
