"""SLURM's queue, through its own commands."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Collection

from pipeline.execution.cluster.scheduler import Cause, Death, QueuedJob, SchedulerError

logger = logging.getLogger(__name__)

_TIMEOUT = 60
_FIELDS = "%i|%j|%T|%r"
_WORDS = {
    Cause.MEMORY: "used more memory than it had asked for",
    Cause.TIME: "reached its time limit",
    Cause.NODE: "lost its node",
    Cause.CANCELLED: "was cancelled",
    Cause.KILLED: "was killed",
    Cause.ENDED: "ended with an error",
    Cause.UNKNOWN: "ended before its units",
}
_CAUSES = {
    "OUT_OF_MEMORY": Cause.MEMORY,
    "TIMEOUT": Cause.TIME,
    "DEADLINE": Cause.TIME,
    "NODE_FAIL": Cause.NODE,
    "BOOT_FAIL": Cause.NODE,
    "CANCELLED": Cause.CANCELLED,
    "PREEMPTED": Cause.CANCELLED,
    "REVOKED": Cause.CANCELLED,
    "FAILED": Cause.ENDED,
}
_KILL = 9


class Slurm:
    """The queue of the user who runs the command.

    Raises:
        SchedulerError: this machine has no SLURM commands.
    """

    def __init__(self) -> None:
        if missing := [name for name in ("sbatch", "squeue", "scontrol", "scancel", "srun") if not shutil.which(name)]:
            raise SchedulerError(
                f"`execution.backend: submitit`, but this machine has no `{missing[0]}`",
                expected="a machine from which SLURM jobs are submitted",
                fix="run the command there, or use `execution.backend: local`",
            )

    def queue(self) -> list[QueuedJob] | None:
        """The living jobs of this user, those of arrays one by one."""
        text = _ask("squeue", "--me", "--noheader", "--array", "--format", _FIELDS)
        if text is None:
            return None
        rows = [line.strip().split("|", 3) for line in text.splitlines() if line.count("|") >= 3]
        return [QueuedJob(job, name, state, reason) for job, name, state, reason in rows]

    def death(self, job: str) -> Death:
        """How a job ended: as the controller remembers it for some minutes, else as the accounting does."""
        text = _ask("scontrol", "--oneliner", "show", "job", job)
        state, code = _field(text, "JobState"), _field(text, "ExitCode")
        if not state:
            rows = _ask("sacct", "--noheader", "--parsable2", "--allocations", "-j", job, "-o", "State,ExitCode") or ""
            state, _, code = rows.partition("\n")[0].partition("|")
        return death_of(state, code)

    def cancel(self, jobs: Collection[str]) -> None:
        """Cancels jobs; running ones get SIGTERM first."""
        if jobs:
            _ask("scancel", *sorted(jobs))

    def largest_array(self) -> int | None:
        """SLURM's `MaxArraySize`, which is one more than the largest number in an array."""
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config") or "")
        return int(found[1]) if found else None


def death_of(state: str, code: str) -> Death:
    """Reads a state and an exit code of SLURM, such as `CANCELLED by 0` and `0:15`."""
    cause = _CAUSES.get(state.split(" ")[0].rstrip("+"), Cause.UNKNOWN)
    exit_code, _, signal_number = code.partition(":")
    if cause is Cause.ENDED and (signal_number == str(_KILL) or exit_code == str(128 + _KILL)):
        cause = Cause.KILLED
    shown = f" ({state}, exit code {code})" if state else ""
    return Death(cause, _WORDS[cause] + shown)


def _field(text: str | None, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", text or "")
    return found[1] if found else ""


def _ask(*command: str) -> str | None:
    """Runs a command of SLURM; `None` if it does not answer or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("%s: %s", command[0], error)
        return None
    if run.returncode:
        logger.debug("%s: %s", " ".join(command), run.stderr.strip())
        return None
    return run.stdout
