"""Running units, several at a time, in a pool of workers."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from data.parallel import folder_of_process
from pipeline.execution.processes import available_cores, rank, world_size
from pipeline.execution.progress import STOP, StageProgress
from pipeline.execution.stopping import StopFile, stops_on_signal
from pipeline.execution.unit import Outcome, Unit, is_done
from pipeline.execution.worker import run_unit, start_worker
from pipeline.storage.atomic import remove_temporaries
from pipeline.storage.digest import digest
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

_POOL_RESTARTS = 3
_KILLED = (
    "its worker process was killed repeatedly; expected it to finish (did the machine run out of memory?); "
    "to fix it, use --jobs 1, or smaller patches"
)


@dataclass(frozen=True)
class Execution:
    """How units are run.

    Attributes:
        jobs: units at a time.
        threads: threads of each unit; the results depend on it (in the order of sums), never on `jobs`.
        backend: joblib backend.
    """

    jobs: int = 1
    threads: int = 1
    backend: str = "loky"

    @classmethod
    def sharing_cores(cls, jobs: int | None, units: int) -> Execution:
        """Runs the given number of units at a time, by default one, each with its share of the cores."""
        jobs = min(jobs or 1, units)
        return cls(jobs, max(available_cores() // jobs, 1))


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


def run_units(stage: str, units: Sequence[Unit], workspace: Workspace, execution: Execution) -> StageRun:
    """Runs the units that are not done yet, several at a time, and shows progress.

    A killed worker takes its pool with it; a new pool then continues with the unfinished units. If this happens
    repeatedly, units are run one by one, and the one that kills its worker has failed.
    """
    start = time.perf_counter()
    if rank() == 0:
        remove_temporaries(workspace.root / stage)
    outcomes = {unit.key: Outcome(unit.key, "reused") for unit in units if is_done(unit, workspace)}
    waiting = sorted((u for u in units if u.key not in outcomes), key=lambda u: -u.size)
    progress_folder = _empty_progress_folder(workspace)
    if waiting or not units:
        logger.info("%s: %d to do, %d already done", stage, len(waiting), len(outcomes))
    else:
        logger.info("%s: nothing to do, %d already done", stage, len(outcomes))
    stop = StopFile(progress_folder / STOP)
    sizes = {u.key: u.size for u in waiting}
    with stops_on_signal(stop.request), StageProgress(stage, sizes, progress_folder) as bar:
        for outcome in _with_new_pools(stage, waiting, workspace, progress_folder, execution):
            outcomes[outcome.key] = outcome
            if outcome.state != "stopped":
                bar.finished(outcome.key, outcome.state, outcome.seconds, outcome.message)
    shutil.rmtree(progress_folder, ignore_errors=True)
    return StageRun(tuple(outcomes[u.key] for u in units), time.perf_counter() - start)


def _empty_progress_folder(workspace: Workspace) -> Path:
    """Makes the folder in which the units of this process report their progress."""
    folder = workspace.root / (".progress" if rank() == 0 else f".progress-{rank()}")
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink(missing_ok=True)
    return folder


def _with_new_pools(
    stage: str, waiting: Sequence[Unit], workspace: Workspace, progress_folder: Path, execution: Execution
) -> Iterator[Outcome]:
    """Runs units until each has an outcome, with a new pool of workers whenever a worker is killed."""
    restarts, killed = 0, False
    while waiting:
        # Running units one by one shows which of them kills its worker.
        alone = restarts >= _POOL_RESTARTS
        batch = waiting[:1] if alone else waiting
        finished: set[str] = set()
        try:
            for outcome in _in_parallel(batch, workspace, progress_folder, execution):
                finished.add(outcome.key)
                yield outcome
        except TerminatedWorkerError:
            killed = True
            for unit in batch:
                if unit.key not in finished and is_done(unit, workspace):
                    finished.add(unit.key)
                    yield Outcome(unit.key, "done")
            if alone and not finished:
                restarts = 0
                finished.add(batch[0].key)
                yield Outcome(batch[0].key, "failed", message=_KILLED)
            else:
                restarts = 1 if finished else restarts + 1
                logger.warning("%s: a worker process was killed; continuing with the unfinished units", stage)
        waiting = [unit for unit in waiting if unit.key not in finished]
    if killed:
        remove_temporaries(workspace.root / stage)


def _in_parallel(
    units: Sequence[Unit], workspace: Workspace, progress_folder: Path, execution: Execution
) -> Iterator[Outcome]:
    no_workers = execution.backend == "loky" and joblib.effective_n_jobs(2) == 1
    if no_workers and execution.jobs > 1:
        logger.warning("workers need shared memory, but /dev/shm is not writable: running one unit at a time")

    def arguments(unit: Unit) -> tuple[Unit, Path, Path, int]:
        folder, progress = workspace.unit_folder(unit.stage, unit.key), progress_folder / digest(unit.key)[:16]
        return unit, folder, progress, execution.threads

    # Processes that train together all take part in every unit, one unit after the other.
    if world_size() > 1 or no_workers:
        yield from (run_unit(*arguments(unit)) for unit in units)
        return
    settings: dict[str, Any] = {"backend": execution.backend}
    if execution.backend == "loky":
        settings |= {
            "inner_max_num_threads": execution.threads,
            "initializer": start_worker,
            "initargs": (os.getpid(), folder_of_process()),
        }
    with joblib.parallel_config(**settings):
        # A single unit goes to a worker too: if it is killed, this process remains to report it.
        jobs = max(2, min(execution.jobs, len(units))) if execution.jobs > 1 else 1
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
        yield from parallel(joblib.delayed(run_unit)(*arguments(unit)) for unit in units)
