"""What has become of jobs that no command looks after: the scheduler is asked, where it can be."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.execution.backend_options import Cluster
from pipeline.execution.cluster.job_files import JobBook, SubmittedJob
from pipeline.execution.cluster.living_jobs import living_jobs
from pipeline.execution.cluster.scheduler import Scheduler, SchedulerError

FindScheduler = Callable[[Cluster, JobBook], Scheduler]
_ASKED = 5
"""Jobs whose end is asked for: each question takes a while."""


@dataclass(frozen=True)
class JobFates:
    """The open jobs of a book, by the names of their files.

    Attributes:
        ends: of jobs that have ended, in words.
        pending: those that have not begun.
        unasked: why the scheduler could not be asked; jobs are then taken for living.
    """

    ends: Mapping[str, str] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()
    unasked: str = ""


def job_fates(book: JobBook, hosts: Mapping[str, str], find_scheduler: FindScheduler) -> JobFates:
    """Asks what has become of the open jobs.

    Args:
        book: of the workspace.
        hosts: kind of units → machine of the command that submitted their jobs.
        find_scheduler: finds who knows of the jobs of a cluster.
    """
    jobs = book.open_jobs()
    if not jobs:
        return JobFates()
    cluster = jobs[-1].cluster
    host = hosts.get(jobs[-1].stage, socket.gethostname())
    if cluster is Cluster.LOCAL and host != socket.gethostname():
        return JobFates(unasked=f"they are processes on {host}")
    if not book.is_mine:
        # Both show a user his own.
        return JobFates(unasked="they belong to another user")
    try:
        scheduler = find_scheduler(cluster, book)
    except SchedulerError:
        return JobFates(unasked="this machine has no commands of the scheduler")
    queue = scheduler.queue()
    if queue is None:
        return JobFates(unasked="the scheduler does not answer")
    living = living_jobs(book, jobs, queue)
    dead = [job for job in jobs if job.name not in living]
    ends = {job.name: _end(job, scheduler if number < _ASKED else None) for number, job in enumerate(dead)}
    return JobFates(ends, frozenset(name for name, own in living.items() if own.pending))


def _end(job: SubmittedJob, scheduler: Scheduler | None) -> str:
    if not job.job:
        return "its job was never submitted"
    return f"its job {job.job} {'has ended' if scheduler is None else scheduler.death(job.job).words}"
