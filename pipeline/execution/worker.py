"""Running one unit in a worker process, or in the command itself."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from joblib.externals.loky import process_executor
from threadpoolctl import threadpool_limits

from data.errors import GraftError
from data.parallel import end_with_command, go_to
from data.torch_threads import torch_threads
from pipeline.execution.gpu_slot import GpuSlots
from pipeline.execution.processes import rank
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError, listen_in_worker
from pipeline.execution.unit import MARKER, Outcome, Unit
from pipeline.storage.atomic import temporary_room, write_json
from pipeline.storage.machine_faults import machine_fault
from pipeline.storage.owned_folder import contents, require_ours, settle
from pipeline.storage.resumable import partial_folder, resumable_folder


def start_worker(parent: int, folder: str | None, slots: GpuSlots | None = None) -> None:
    """Ties a loky worker to its command, before the first unit: a worker that got none would outlive a killed command.

    Args:
        parent: number of the command's process.
        folder: where its relative paths begin.
        slots: places at the GPUs of this machine, of which it takes one.
    """
    end_with_command(parent)
    go_to(folder)
    if slots is not None:
        slots.take()
    listen_in_worker()
    # loky replaces a worker that grew by 300 MB since its first task, assuming a leak. Scans differ in size by more
    # than that, and every new worker imports torch again. There is no public way to turn this off.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _room(unit: Unit, folder: Path) -> AbstractContextManager[Path]:
    """The folder that a unit works in; of processes that train together, only the first one writes there."""
    if rank() > 0:
        return nullcontext(partial_folder(folder, unit.digest))
    return resumable_folder(folder, unit.digest) if unit.resumable else temporary_room(folder)


def run_unit(unit: Unit, folder: Path, progress: Path, threads: int) -> Outcome:
    """Runs one unit; a failure is returned, not raised, because one bad unit must not stop the others."""
    start = time.perf_counter()
    reporter = ProgressFile(progress, saves=unit.resumable)
    if reporter.stop_requested:
        return Outcome(unit.key, "stopped")
    try:
        reporter.begin()
        if rank() == 0:
            require_ours(folder, MARKER, unit.changed)
        with torch_threads(threads), threadpool_limits(threads), _room(unit, folder) as temporary:
            unit.work(temporary, reporter, **unit.arguments)
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
    except Exception as error:  # a fault of the machine or a bug; a bug is reported with its trace
        fault = machine_fault(error, progress.parent.parent)
        message = str(fault) if fault else f"{type(error).__name__}: {error}"
        trace = "" if fault else traceback.format_exc()
        return Outcome(unit.key, "failed", time.perf_counter() - start, _peak_memory(), message, trace)
    finally:
        progress.unlink(missing_ok=True)
    return Outcome(unit.key, "done", seconds, peak)
