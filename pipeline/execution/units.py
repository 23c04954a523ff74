"""Units: the pieces a stage is made of, each idempotent, each a folder with a done-marker.

A unit works in a temporary folder. When it is done, its marker is written last, and the folder takes its name in one
step; so a folder under its name is always whole, whenever the process or the machine was stopped. The marker holds a
digest of all that determines the outcome (the unit's part of the configuration, the digests of its inputs, the version
of the stage); a unit whose marker agrees is not done again.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky import process_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits

from data.errors import GraftError, WorkspaceError
from pipeline.execution.processes import rank, world_size
from pipeline.execution.progress import STOP, ProgressFile, StageProgress
from pipeline.execution.stopping import StopFile, StopRequestedError, listen_in_worker, stops_on_signal
from pipeline.storage.atomic import remove_temporaries, temporary_room, write_json
from pipeline.storage.digest import digest
from pipeline.storage.machine_faults import machine_fault
from pipeline.storage.owned_folder import Changed, contents, read_manifest, require_ours, settle
from pipeline.storage.resumable import partial_folder, resumable_folder
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

MARKER = "done.json"
_POOL_RESTARTS = 3
_KILLED = (
    "its worker process was killed repeatedly; expected it to finish (did the machine run out of memory?); "
    "to fix it, use --jobs 1, or smaller patches"
)


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        stage: the folder of its kind in the workspace; most stages have one kind of unit, named like the stage.
        key: its name in the stage and its folder below the stage's, e.g. `dwp/n05/repeat-0`.
        recipe: all that determines the outcome, JSON-able.
        work: a module-level function `work(folder, progress, **arguments)` that fills the folder.
        arguments: what `work` gets, picklable.
        size: how long it takes, in any measure common to the stage; large ones start first.
        resumable: whether the work saves checkpoints in its folder and goes on from them.
        changed: what becomes of its files that somebody changed.
        needs: stage and key of each unit whose files it reads, where one command makes both.
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
class Execution:
    """How units are run.

    Attributes:
        jobs: how many at a time.
        threads: threads of each; the results depend on it (sums are ordered by it), never on `jobs`.
        backend: joblib backend, the seam to other machines.
    """

    jobs: int = 1
    threads: int = 1
    backend: str = "loky"


@dataclass(frozen=True)
class Outcome:
    """How a unit ended.

    Attributes:
        key: the unit's key.
        state: `done`, `reused`, `stopped` or `failed`.
        seconds: wall time of the work.
        peak_memory: largest resident size in bytes that its process had by then.
        message: for a failure, one sentence.
        trace: for a failure that is not the user's, the traceback.
    """

    key: str
    state: str
    seconds: float = 0.0
    peak_memory: int = 0
    message: str = ""
    trace: str = ""


@dataclass(frozen=True)
class StageRun:
    """What one run of a stage did.

    Attributes:
        outcomes: in the order of the units.
        wall_seconds: wall time of this run.
    """

    outcomes: tuple[Outcome, ...]
    wall_seconds: float

    @property
    def failures(self) -> list[Outcome]:
        """Outcomes of the units that failed."""
        return [o for o in self.outcomes if o.state == "failed"]

    def count(self, state: str) -> int:
        """Number of units that ended in this state."""
        return sum(o.state == state for o in self.outcomes)


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Returns the marker of a finished unit whose files are all there in their size, else `None`."""
    marker = read_manifest(folder / MARKER)
    try:
        if marker is None or any((folder / n).stat().st_size != size for n, size in marker["files"].items()):
            return None
    except (OSError, KeyError):
        return None
    return marker


def is_done(unit: Unit, workspace: Workspace) -> bool:
    """Whether the unit was finished with this very recipe, and its files are there.

    They have the size that they were written in, unless people work on them: what they changed stays as it is.
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


def _die_with_parent(parent: int) -> None:
    """Ends this worker when the command that started it is gone, so that no orphan works on after a kill -9."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


_watched: set[int] = set()


def _watch(parent: int) -> None:
    """Ties a loky worker to its command; `parent` is 0 for other backends, whose workers are nobody's children here."""
    if parent in {0, os.getpid()}:
        return
    if os.getppid() != parent:
        # The command was killed while this worker was still starting.
        os._exit(1)
    if parent not in _watched:
        _watched.add(parent)
        listen_in_worker()
        # loky takes a worker that grew by 300 MB since its first task for a leak and replaces it. A scan is larger than
        # the one before as often as not, and every new worker imports torch again. There is no public way to say so.
        process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
        threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _limit_threads(threads: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _room(unit: Unit, folder: Path) -> AbstractContextManager[Path]:
    """Where a unit works; of processes that train together, the first one writes and the others only read there."""
    if rank() > 0:
        return nullcontext(partial_folder(folder, unit.digest))
    return resumable_folder(folder, unit.digest) if unit.resumable else temporary_room(folder)


def _carry_out(unit: Unit, folder: Path, progress: Path, threads: int, parent: int) -> Outcome:
    """Does one unit; what goes wrong is returned, because one bad unit must not stop the others."""
    _watch(parent)
    start = time.perf_counter()
    told = ProgressFile(progress, saves=unit.resumable)
    if told.stop_requested:
        return Outcome(unit.key, "stopped")
    try:
        if rank() == 0:
            require_ours(folder, MARKER, unit.changed)
        _limit_threads(threads)
        with threadpool_limits(threads), _room(unit, folder) as temporary:
            unit.work(temporary, told, **unit.arguments)
            seconds, peak = time.perf_counter() - start, _peak_memory()
            if rank() > 0:
                return Outcome(unit.key, "done", seconds, peak)
            marker = {"digest": unit.digest, "seconds": round(seconds, 3), "peak_memory": peak, "recipe": unit.recipe}
            write_json(temporary / MARKER, contents(temporary, MARKER) | marker)
            settle(temporary, folder, MARKER, unit.changed)
    except StopRequestedError:
        return Outcome(unit.key, "stopped", time.perf_counter() - start, _peak_memory())
    except GraftError as error:
        return Outcome(unit.key, "failed", time.perf_counter() - start, _peak_memory(), str(error))
    except Exception as error:  # any other failure is the machine's or a bug; that one is reported with its trace
        fault = machine_fault(error, progress.parent.parent)
        message = str(fault) if fault else f"{type(error).__name__}: {error}"
        trace = "" if fault else traceback.format_exc()
        return Outcome(unit.key, "failed", time.perf_counter() - start, _peak_memory(), message, trace)
    finally:
        progress.unlink(missing_ok=True)
    return Outcome(unit.key, "done", seconds, peak)


def run_units(stage: str, units: Sequence[Unit], workspace: Workspace, execution: Execution) -> StageRun:
    """Does those units that are not done yet, several at a time, and shows progress.

    A worker that is killed takes its pool with it; the pool is then started again with what is unfinished. If that
    happens again and again, the units are done one by one, and the one that kills its worker has failed.
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
    """Makes the folder in which the units of this process tell how far they are."""
    folder = workspace.root / (".progress" if rank() == 0 else f".progress-{rank()}")
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink(missing_ok=True)
    return folder


def _with_new_pools(
    stage: str, waiting: Sequence[Unit], workspace: Workspace, progress_folder: Path, execution: Execution
) -> Iterator[Outcome]:
    """Does units until each has an outcome, with a new pool of workers whenever one of them is killed."""
    restarts, killed = 0, False
    while waiting:
        # Whose work kills the workers shows when each is done alone.
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
    # Processes that train together all take part in every unit, here and one after the other.
    if world_size() > 1 or no_workers:
        for unit in units:
            folder = workspace.unit_folder(unit.stage, unit.key)
            yield _carry_out(unit, folder, progress_folder / digest(unit.key)[:16], execution.threads, 0)
        return
    settings: dict[str, Any] = {"backend": execution.backend}
    if execution.backend == "loky":
        settings["inner_max_num_threads"] = execution.threads
    with joblib.parallel_config(**settings):
        # One unit alone goes to a worker too: were it killed in this process, nobody would be left to say so.
        jobs = max(2, min(execution.jobs, len(units))) if execution.jobs > 1 else 1
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
        parent = os.getpid() if execution.backend == "loky" else 0
        yield from parallel(
            joblib.delayed(_carry_out)(
                unit,
                workspace.unit_folder(unit.stage, unit.key),
                progress_folder / digest(unit.key)[:16],
                execution.threads,
                parent,
            )
            for unit in units
        )
