"""Processes of this machine in the place of a cluster's jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress

from pipeline.execution.cluster.job_files import JobBook
from pipeline.execution.cluster.scheduler import Cause, Death, QueuedJob
from pipeline.storage.atomic import process_lives


class OwnProcesses:
    """The processes that submitit's local executor starts; their numbers are those of the jobs.

    Args:
        book: that names them.
    """

    def __init__(self, book: JobBook) -> None:
        self._book = book

    def queue(self) -> list[QueuedJob] | None:
        """The living ones."""
        found = []
        for own in self._book.open_jobs():
            job = own.job or self._book.events(own).started_as
            if job and _lives(int(job)):
                found.append(QueuedJob(job, own.token, "RUNNING"))
        return found

    def death(self, job: str) -> Death:
        """Nothing is known of a process that has ended."""
        return Death(Cause.KILLED, "was killed")

    def cancel(self, jobs: Collection[str]) -> None:
        """Tells them to save."""
        for job in jobs:
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGTERM)

    def largest_array(self) -> int | None:
        """There are no arrays."""
        return None


def _lives(process: int) -> bool:
    # One that this command started stays in the list of processes until somebody asks how it ended.
    with suppress(ChildProcessError):
        os.waitpid(process, os.WNOHANG)
    return process_lives(process)
