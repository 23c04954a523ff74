"""Which jobs of a book the scheduler has not ended."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.execution.backend_options import Cluster
from pipeline.execution.cluster.job_files import JobBook, SubmittedJob
from pipeline.execution.cluster.own_processes import OwnProcesses
from pipeline.execution.cluster.scheduler import QueuedJob, Scheduler
from pipeline.execution.cluster.slurm import Slurm


def scheduler_of(cluster: Cluster, book: JobBook) -> Scheduler:
    """Returns what knows of the jobs of a cluster.

    Raises:
        SchedulerError: this machine has no commands of it.
    """
    return OwnProcesses(book) if cluster is Cluster.LOCAL else Slurm()


def living_jobs(book: JobBook, jobs: Iterable[SubmittedJob], queue: Iterable[QueuedJob]) -> dict[str, QueuedJob]:
    """Finds jobs in the queue, and notes the numbers of those whose command was killed before it was told them.

    Args:
        book: that names the jobs.
        jobs: some of them.
        queue: all living jobs.

    Returns:
        The living ones, by the names of their files.
    """
    living = {own.job: own for own in queue}
    named = {(own.name, own.job.partition("_")[2] or "0"): own.job for own in living.values()}
    found = {}
    for job in jobs:
        job.job = job.job or book.events(job).started_as or named.get((job.token, str(job.number)), "")
        if job.job in living:
            found[job.name] = living[job.job]
    return found
