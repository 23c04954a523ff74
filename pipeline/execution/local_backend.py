"""Units in worker processes of this machine."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from data.parallel import folder_of_process
from pipeline.execution.backend import Work
from pipeline.execution.gpu_slot import GpuSlots
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.unit import Outcome, is_done
from pipeline.execution.worker import run_unit, start_worker
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

_POOL_RESTARTS = 3
_KILLED = (
    "its worker process was killed repeatedly; expected it to finish (did the machine run out of memory?); "
    "to fix it, use --jobs 1, or smaller patches"
)


@cache
def _place_of_locks() -> Path:
    """A folder on a disk of this machine; always the same, so that loky keeps its workers from one kind to the next."""
    folder = tempfile.mkdtemp(prefix="graft-gpus-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@dataclass(frozen=True)
class LocalBackend:
    """Runs units in a pool of loky's processes.

    A killed worker takes its pool with it; a new pool then continues with the unfinished units. If this happens
    repeatedly, units are run one by one, and the one that kills its worker has failed.

    Attributes:
        gpus: GPUs that the workers share, as `CUDA_VISIBLE_DEVICES` names them; each worker sees one.
        units_per_gpu: workers that share a GPU.
    """

    gpus: tuple[str, ...] = ()
    units_per_gpu: int = 1

    def still_works(self, stage: str, workspace: Workspace) -> bool:
        """Never: workers end with their command."""
        return False

    def run(self, work: Work) -> Iterator[Outcome]:
        """Runs units until each has an outcome, with a new pool of workers whenever a worker is killed."""
        waiting = list(work.units)
        restarts = 0
        while waiting:
            # Running units one by one shows which of them kills its worker.
            alone = restarts >= _POOL_RESTARTS
            batch = waiting[:1] if alone else waiting
            finished: set[str] = set()
            try:
                for outcome in self._in_parallel(replace(work, units=batch)):
                    finished.add(outcome.key)
                    yield outcome
            except TerminatedWorkerError:
                for unit in batch:
                    if unit.key not in finished and is_done(unit, work.workspace):
                        finished.add(unit.key)
                        yield Outcome(unit.key, "done")
                if alone and not finished:
                    restarts = 0
                    finished.add(batch[0].key)
                    yield Outcome(batch[0].key, "failed", message=_KILLED)
                else:
                    restarts = 1 if finished else restarts + 1
                    logger.warning("%s: a worker process was killed; continuing with the unfinished units", work.stage)
            waiting = [unit for unit in waiting if unit.key not in finished]

    @property
    def _gpu_slots(self) -> GpuSlots | None:
        return GpuSlots(_place_of_locks(), self.gpus, self.units_per_gpu) if self.gpus else None

    def _in_parallel(self, work: Work) -> Iterator[Outcome]:
        if joblib.effective_n_jobs(2) == 1:
            if work.jobs > 1:
                logger.warning("workers need shared memory, but /dev/shm is not writable: running one unit at a time")
            yield from InProcessBackend().run(work)
            return
        with joblib.parallel_config(
            backend="loky",
            inner_max_num_threads=work.threads,
            initializer=start_worker,
            initargs=(os.getpid(), folder_of_process(), self._gpu_slots),
        ):
            # A single unit goes to a worker too: if it is killed, this process remains to report it.
            jobs = max(2, min(work.jobs, len(work.units))) if work.jobs > 1 else 1
            parallel = joblib.Parallel(
                n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs"
            )
            yield from parallel(joblib.delayed(run_unit)(*work.call(unit)) for unit in work.units)
