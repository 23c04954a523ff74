"""What a job does on a node: its units, until they are done or the job is told to save."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.parallel import go_to
from pipeline.execution.backend import Backend, Work
from pipeline.execution.cluster.job_files import JobEvents
from pipeline.execution.device import visible_gpus
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.local_backend import LocalBackend
from pipeline.execution.stopping import listen_in_worker
from pipeline.execution.unit import Outcome, Unit, is_done
from pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


_BEGINNING = 60.0
"""A unit that began so many seconds after its job had all its time."""


@dataclass
class UnitsJob:
    """The units of a job; submitit stores it and calls it on the node.

    The signal before the time limit makes the units save, as SIGTERM does for a command; then submitit's own handler
    queues the job again, and the next call continues with the units that are not done.

    Attributes:
        stage: folder of the kind of its units.
        units: those that it runs.
        workspace: of the study.
        progress: folder of the progress files.
        threads: of each unit.
        together: units at a time, which share the GPUs of the job; each sees one.
        events: file to which it writes what happens.
        folder: where relative paths begin.
        minutes: time limit of the job.
    """

    stage: str
    units: Sequence[Unit]
    workspace: Path
    progress: Path
    threads: int
    together: int
    events: Path
    folder: str | None
    minutes: float

    def __call__(self) -> None:
        """Runs the units."""
        from submitit import JobEnvironment

        begin = time.monotonic()
        go_to(self.folder)
        environment = JobEnvironment()
        warning = signal.Signals[f"SIG{environment.USR_SIG}"]
        queue_again: Any = signal.getsignal(warning)
        heard: list[int] = []
        listen_in_worker(heard.append)
        events = JobEvents(self.events)
        events.begin(environment.job_id, socket.gethostname())
        workspace = Workspace(self.workspace)
        # A job that was queued again has done some.
        work = self._work(workspace, [unit for unit in self.units if not is_done(unit, workspace)])
        stopped = False
        for outcome in self._backend().run(work):
            if warning in heard and self._needs_longer(outcome, time.monotonic() - begin):
                outcome = replace(outcome, state="failed", message=self._too_long(outcome.seconds))
            if outcome.state == "stopped":
                stopped = True
            else:
                events.end_unit(outcome)
        if stopped:
            again = warning in heard and not work.stop.is_there
            events.interrupted(again)
            if again:
                queue_again(warning, None)

    def checkpoint(self) -> DelayedSubmission:
        """What the job does when it begins again; submitit asks for it."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _backend(self) -> Backend:
        return LocalBackend(tuple(visible_gpus()), self.together) if self.together > 1 else InProcessBackend()

    def _work(self, workspace: Workspace, units: Sequence[Unit]) -> Work:
        return Work(self.stage, units, workspace, self.progress, self.together, self.threads)

    def _needs_longer(self, outcome: Outcome, seconds: float) -> bool:
        """Whether a unit was stopped that had all the time of the job and will begin anew next time."""
        if outcome.state != "stopped" or next(u for u in self.units if u.key == outcome.key).resumable:
            return False
        return seconds - outcome.seconds < _BEGINNING and seconds > 0.5 * 60 * self.minutes

    def _too_long(self, seconds: float) -> str:
        return (
            f"it cannot save its work and was not done within {seconds / 60:.0f} of the {self.minutes:g} minutes that "
            f"a job may take; to fix it, raise `execution.submitit.minutes`, or `minutes` of "
            f"`execution.submitit.stages.{self.stage}`"
        )
