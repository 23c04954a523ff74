"""The seam between a stage and what runs its units: "run these units, and tell me what ended"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.execution.progress import STOP, progress_file
from pipeline.execution.stopping import StopFile
from pipeline.execution.unit import Outcome, Unit
from pipeline.storage.workspace import Workspace


@dataclass(frozen=True)
class Work:
    """Units to be run, all of one kind.

    Attributes:
        stage: the folder of their kind in the workspace.
        units: those that are to do, large ones first.
        workspace: of the study.
        progress: folder of their progress files; a file in it asks all of them to stop.
        jobs: units at a time, where the machine of the command runs them.
        threads: of each unit.
        siblings: all units of the kind; the markers of finished ones say how long units take.
    """

    stage: str
    units: Sequence[Unit]
    workspace: Workspace
    progress: Path
    jobs: int = 1
    threads: int = 1
    siblings: Sequence[Unit] = ()

    def call(self, unit: Unit) -> tuple[Unit, Path, Path, int]:
        """The arguments of `run_unit` for one of the units."""
        folder = self.workspace.unit_folder(unit.stage, unit.key)
        return unit, folder, progress_file(self.progress, unit.key), self.threads

    @property
    def stop(self) -> StopFile:
        """The request to stop."""
        return StopFile(self.progress / STOP)


class Backend(Protocol):
    """Runs units somewhere. Whatever happens there, the done-marker of a unit says whether it is done."""

    def run(self, work: Work) -> Iterator[Outcome]:
        """Runs units and yields the outcome of each as it ends: every unit has exactly one.

        A unit that fails, or that kills its process again and again, is an outcome; the others go on. Once a stop is
        requested, no further unit is started, and those without an outcome are yielded as `stopped`.

        Raises:
            GraftError: units cannot be run there at all.
        """
        ...

    def still_works(self, stage: str, workspace: Workspace) -> bool:
        """Whether units that an earlier command started are still running."""
        ...
