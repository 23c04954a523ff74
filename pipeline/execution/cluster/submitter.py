"""Handing jobs to submitit."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from pipeline.execution.backend_options import Cluster, SubmititOptions
from pipeline.execution.cluster.scheduler import SchedulerError

if TYPE_CHECKING:
    from submitit import Executor

_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip
"""What libraries read when they are loaded, as joblib sets it for its workers."""
_NEVER = 10**6
"""Jobs queue themselves again as often as they must: one that gets nowhere is told apart by its units."""


class Submitter:
    """Submits jobs for one kind of units.

    Args:
        options: of this kind.
        folder: for the files of the jobs, on a disk that all nodes share.
        threads: of each unit.
        cpus: cores of a job.

    Raises:
        ConfigError: submitit is not installed.
    """

    def __init__(self, options: SubmititOptions, folder: Path, threads: int, cpus: int) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "`execution.backend: submitit`, but the package submitit is not installed",
                expected="Graft with its extra `cluster`",
                fix="run `pip install '.[cluster]'` in the folder of Graft's clone",
            ) from error
        self._options = options
        settings = " ".join(f"{name}={threads}" for name in _THREADS)
        python = f"env {settings} {options.python or shlex.quote(sys.executable)}"
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._executor: Executor
        if options.cluster is Cluster.LOCAL:
            self._executor = submitit.LocalExecutor(folder, _NEVER, python=python)
            self._executor.update_parameters(
                timeout_min=options.minutes,
                signal_delay_s=options.signal_seconds,
                gpus_per_node=options.gpus,
                stderr_to_stdout=True,
            )
        else:
            self._executor = submitit.SlurmExecutor(folder, _NEVER, python=python)
            self._executor.update_parameters(**self._of_slurm(cpus))

    def _of_slurm(self, cpus: int) -> dict[str, Any]:
        own = self._options
        named = {"partition": own.partition, "account": own.account, "qos": own.qos, "constraint": own.constraint}
        return {
            **{name: value for name, value in named.items() if value is not None},
            **({"gpus_per_node": own.gpus} if own.gpus else {}),
            **({"additional_parameters": dict(own.additional)} if own.additional else {}),
            "time": math.ceil(own.minutes),
            "mem": f"{math.ceil(1024 * own.memory_gb)}M",
            "cpus_per_task": cpus,
            # SLURM no longer passes it on from the job to its step.
            "srun_args": [f"--cpus-per-task={cpus}"],
            "setup": list(own.setup),
            "signal_delay_s": own.signal_seconds,
            "stderr_to_stdout": True,
        }

    def submit(self, calls: Sequence[Callable[[], None]], name: str) -> list[str]:
        """Submits jobs, as one array if there are several and the cluster has arrays.

        Args:
            calls: what each job does.
            name: of the jobs in the queue.

        Returns:
            The scheduler's numbers of the jobs.

        Raises:
            SchedulerError: it refuses them, in its own words.
        """
        if self._options.cluster is Cluster.SLURM:
            self._executor.update_parameters(job_name=name, array_parallelism=len(calls))
        try:
            jobs = self._executor.submit_array(list(calls))
        except RuntimeError as error:
            raise SchedulerError(
                f"SLURM refuses the jobs: {_words(str(error))}",
                expected="jobs that the cluster takes",
                fix="correct `execution.submitit`",
            ) from error
        return [job.job_id for job in jobs]

    def log(self, job: str) -> Path:
        """The file with what a job printed."""
        return self.folder / f"{job}_0_log.out"


def _words(text: str) -> str:
    """The scheduler's own words, without the name of its command before each line."""
    lines = [line.partition("error: ")[2] or line for line in text.splitlines() if line.strip()]
    return "; ".join(line.strip().rstrip(".") for line in lines)


def last_line(log: Path) -> str:
    """The last line that a job printed; empty if there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(log.stat().st_size - 4000, 0))
            lines = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
