"""Units as jobs that submitit submits."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.parallel import folder_of_process
from pipeline.execution.backend import Work
from pipeline.execution.backend_options import Cluster, SubmititOptions, units_together
from pipeline.execution.cluster.job_files import JOBS, JobBook, JobEvents
from pipeline.execution.cluster.job_run import JobRun
from pipeline.execution.cluster.living_jobs import living_jobs, scheduler_of
from pipeline.execution.cluster.node_facts import NodeError, NodeFacts, Probe, not_shared
from pipeline.execution.cluster.scheduler import Cause, Scheduler, SchedulerError
from pipeline.execution.cluster.submitter import Submitter, last_line
from pipeline.execution.cluster.units_job import UnitsJob
from pipeline.execution.unit import Outcome, Unit
from pipeline.storage.digest import digest
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

_PROBE = "probe"
_PATIENCE = 15.0
"""Seconds that a network disk may take to show the file of another machine."""


@dataclass(frozen=True)
class SubmititBackend:
    """Runs units as jobs: one for each long unit, arrays of them, short units together.

    Attributes:
        options: of the jobs.
        units_per_gpu: units that share the GPU of a job.
        workers: background processes of each training, which need cores where the options name no number of them.
    """

    options: SubmititOptions
    units_per_gpu: int = 1
    workers: int = 0

    def still_works(self, stage: str, workspace: Workspace) -> bool:
        """Whether jobs of an earlier command are pending or running."""
        book = JobBook(workspace.root / JOBS)
        before = book.open_jobs(stage)
        if not before:
            return False
        queue = self._scheduler(book).queue()
        return queue is None or bool(living_jobs(book, before, queue))

    def run(self, work: Work) -> Iterator[Outcome]:
        """Runs units as jobs and yields how each ended.

        Raises:
            ConfigError: submitit is not installed.
            SchedulerError: there is no scheduler here, or it refuses the jobs.
            NodeError: a node does not see the workspace, or has another Graft.
        """
        if not work.units:
            return
        options = self.options.of_stage(work.stage)
        together = units_together(options, self.units_per_gpu)
        cpus = options.cpus or together * (work.threads + self.workers)
        book = JobBook(work.workspace.root / JOBS)
        folder = book.folder / work.stage
        scheduler = self._scheduler(book)
        submitter = Submitter(options, folder, work.threads, cpus)
        here = folder_of_process()

        def make_call(units: Sequence[Unit], events: JobEvents) -> UnitsJob:
            root, progress = work.workspace.root, work.progress
            return UnitsJob(
                work.stage, units, root, progress, work.threads, together, events.path, here, options.minutes
            )

        run = JobRun(work, options, together, submitter, scheduler, book, make_call)
        if run.adopt() and options.cluster is not Cluster.LOCAL:
            self._probe(work, submitter, scheduler, options)
        kept = False
        for outcome in run.outcomes():
            kept |= outcome.state != "done"
            yield outcome
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)

    def _scheduler(self, book: JobBook) -> Scheduler:
        return scheduler_of(self.options.cluster, book)

    def _probe(self, work: Work, submitter: Submitter, scheduler: Scheduler, options: SubmititOptions) -> None:
        """Has a job look at its node, unless one with these resources and this Graft has done so."""
        folder = work.workspace.root / JOBS / _PROBE
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "known"
        known.touch()
        mine = NodeFacts.here(known)
        asked = digest([options.model_dump(mode="json", include=_OF_NODES), mine.version, mine.code])[:16]
        probe = Probe(known, folder / f"{asked}.json", folder_of_process())
        if probe.read() is None:
            [job] = submitter.submit([probe], f"graft-probe-{asked}")
            logger.info("%s: job %s looks whether its node sees the workspace and has this Graft", work.stage, job)
            self._wait_for(probe, job, work, submitter, scheduler, options)
            if work.stop.requested:
                scheduler.cancel([job])
                return
        facts = probe.read(_PATIENCE)
        try:
            if facts is None:
                raise self._no_answer(job, work.workspace.root, submitter, scheduler)
            mine.require_same(facts, work.workspace.root)
        except NodeError:
            probe.answer.unlink(missing_ok=True)
            raise

    def _wait_for(
        self,
        probe: Probe,
        job: str,
        work: Work,
        submitter: Submitter,
        scheduler: Scheduler,
        options: SubmititOptions,
    ) -> None:
        begin = told = time.monotonic()
        while probe.read() is None and not work.stop.requested:
            time.sleep(min(options.poll_seconds, 1.0))
            queue = scheduler.queue()
            own = next((found for found in queue or [] if found.job == job), None)
            if queue is not None and own is None:
                return
            now = time.monotonic()
            if own is not None and now - told > 60:
                told = now
                logger.info(
                    "%s: job %s is %s (%s)", work.stage, job, own.state.lower(), own.reason or "no reason given"
                )
            if now - begin > 60 * options.probe_minutes:
                scheduler.cancel([job])
                raise SchedulerError(
                    f"job {job}, which looks at its node, did not begin within {options.probe_minutes:g} minutes"
                    + (f" ({own.reason})" if own is not None and own.reason else ""),
                    expected="a cluster that runs it",
                    fix="ask for less in `execution.submitit`, or raise `execution.submitit.probe_minutes`",
                )

    def _no_answer(self, job: str, workspace: Path, submitter: Submitter, scheduler: Scheduler) -> NodeError:
        said, death = last_line(submitter.log(job)), scheduler.death(job)
        if not said and death.cause not in (Cause.CANCELLED, Cause.NODE, Cause.TIME):
            return not_shared(f"of job {job}", workspace)
        return NodeError(
            f"job {job}, which looks at its node, {death.words}{f': {said}' if said else ''}",
            expected="a node that runs the Python of this command",
            fix=f"see {submitter.log(job)}, and name the Python of the nodes in `execution.submitit.python`",
        )


_OF_NODES = {"cluster", "partition", "account", "qos", "constraint", "setup", "python", "additional"}
