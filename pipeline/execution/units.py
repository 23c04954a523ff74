"""Running the units of a stage that are not done yet, and showing how far they are."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import GraftError
from pipeline.execution.backend import Backend, Work
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.ledger import Ledger
from pipeline.execution.local_backend import LocalBackend
from pipeline.execution.processes import rank, threads_of_share, world_size
from pipeline.execution.progress import PROGRESS, STOP, StageProgress
from pipeline.execution.stopping import stops_on_signal
from pipeline.execution.unit import Outcome, Unit, is_done
from pipeline.storage.atomic import remove_temporaries
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How units are run.

    Attributes:
        jobs: units at a time, where they run on this machine.
        threads: threads of each unit; the results depend on it (in the order of sums), never on `jobs`.
        backend: what runs them.
    """

    jobs: int = 1
    threads: int = 1
    backend: Backend = field(default_factory=LocalBackend)

    @classmethod
    def sharing_cores(cls, jobs: int | None, units: int) -> Execution:
        """Runs the given number of units at a time, by default one, each with its share of the threads."""
        jobs = min(jobs or 1, units)
        return cls(jobs, threads_of_share(jobs))


@dataclass(frozen=True)
class StageRun:
    """The outcomes of one run of a stage, in the order of the units, and its wall time."""

    outcomes: tuple[Outcome, ...]
    wall_seconds: float

    @property
    def failures(self) -> list[Outcome]:
        """Outcomes of the units that failed."""
        return [o for o in self.outcomes if o.state == "failed"]

    def count(self, state: str) -> int:
        """Number of units that ended in this state."""
        return sum(o.state == state for o in self.outcomes)


def run_units(
    stage: str, units: Sequence[Unit], workspace: Workspace, execution: Execution, ledger: Ledger | None = None
) -> StageRun:
    """Runs the units that are not done yet, several at a time, and shows progress; the ledger notes what happens.

    Raises:
        GraftError: units cannot be run where the execution says.
    """
    start = time.perf_counter()
    # Processes that train together all take part in every unit, one unit after the other.
    backend = InProcessBackend() if world_size() > 1 else execution.backend
    # Jobs of an earlier command may still write there.
    fresh = not backend.still_works(stage, workspace)
    if rank() == 0 and fresh:
        remove_temporaries(workspace.root / stage)
    outcomes = {unit.key: Outcome(unit.key, "reused") for unit in units if is_done(unit, workspace)}
    waiting = sorted((u for u in units if u.key not in outcomes), key=lambda u: -u.size)
    progress_folder = _progress_folder(workspace, fresh)
    if waiting or not units:
        logger.info("%s: %d to do, %d already done", stage, len(waiting), len(outcomes))
    else:
        logger.info("%s: nothing to do, %d already done", stage, len(outcomes))
    if ledger is not None:
        ledger.begin(units, waiting)
    work = Work(stage, waiting, workspace, progress_folder, execution.jobs, execution.threads, units)
    sizes = {u.key: u.size for u in waiting}
    try:
        with stops_on_signal(work.stop.request), StageProgress(stage, sizes, progress_folder) as bar:
            for outcome in backend.run(work):
                outcomes[outcome.key] = outcome
                if ledger is not None:
                    ledger.end(outcome)
                if outcome.state != "stopped":
                    bar.finished(outcome.key, outcome.state, outcome.seconds, outcome.message)
    except GraftError:
        if not backend.still_works(stage, workspace):
            shutil.rmtree(progress_folder, ignore_errors=True)
        raise
    if waiting and world_size() == 1:
        # Of processes that were killed.
        remove_temporaries(workspace.root / stage)
    shutil.rmtree(progress_folder, ignore_errors=True)
    return StageRun(tuple(outcomes[u.key] for u in units), time.perf_counter() - start)


def _progress_folder(workspace: Workspace, empty: bool) -> Path:
    """Makes the folder in which the units of this process report their progress."""
    folder = workspace.root / (PROGRESS if rank() == 0 else f"{PROGRESS}-{rank()}")
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        if empty or left.name == STOP:
            left.unlink(missing_ok=True)
    return folder
