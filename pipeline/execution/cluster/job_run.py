"""Running the units of one kind as jobs: submit, listen, and submit again what was lost."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.execution.backend import Work
from pipeline.execution.backend_options import SubmititOptions
from pipeline.execution.cluster.chunks import chunked
from pipeline.execution.cluster.job_files import JobBook, JobEvents, SubmittedJob
from pipeline.execution.cluster.living_jobs import living_jobs
from pipeline.execution.cluster.scheduler import Cause, Death, QueuedJob, Scheduler, SchedulerError
from pipeline.execution.cluster.submitter import Submitter, last_line
from pipeline.execution.durations import seconds_per_size
from pipeline.execution.progress import progress_file
from pipeline.execution.unit import Outcome, Unit, is_done, read_marker

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.5
_TRY_AGAIN_AFTER = 60.0
_LATE = 120.0
"""Seconds that a network disk may take to show a marker that a job has written."""
_FIXES = {
    Cause.MEMORY: "raise `memory_gb`, or use smaller patches",
    Cause.TIME: "raise `minutes`",
    Cause.NODE: "run the same command again, or keep away from the node with `additional: {exclude: NODE}`",
    Cause.CANCELLED: "run the same command again",
    Cause.KILLED: "raise `memory_gb` if the job ran out of memory",
    Cause.ENDED: "look at its log",
    Cause.UNKNOWN: "look at its log",
}

MakeCall = Callable[[Sequence[Unit], JobEvents], Callable[[], None]]


class JobRun:
    """The jobs of one kind of units, from the first to the last.

    Args:
        work: the units.
        options: of this kind.
        together: units at a time in a job.
        submitter: hands jobs over.
        scheduler: knows how they are.
        book: of the workspace.
        make_call: makes what a job does.
    """

    def __init__(
        self,
        work: Work,
        options: SubmititOptions,
        together: int,
        submitter: Submitter,
        scheduler: Scheduler,
        book: JobBook,
        make_call: MakeCall,
    ) -> None:
        self._work = work
        self._options = options
        self._together = together
        self._submitter = submitter
        self._scheduler = scheduler
        self._book = book
        self._make_call = make_call
        self._open = {unit.key: unit for unit in work.units}
        self._waiting = list(work.units)
        self._live: dict[str, tuple[SubmittedJob, JobEvents]] = {}
        self._claims: dict[str, Outcome] = {}
        self._silent = False
        self._gone: dict[str, float] = {}
        self._losses: Counter[str] = Counter()
        self._rate = seconds_per_size(work.siblings, work.workspace)
        largest = scheduler.largest_array()
        self._array = min(options.array_size, largest or options.array_size)
        self._next_try = 0.0

    def adopt(self) -> int:
        """Takes over the jobs of an earlier command that are still alive, and cancels those that are of no use now.

        Returns:
            The number of units that still have to be submitted.

        Raises:
            SchedulerError: the scheduler does not answer.
        """
        before = self._book.open_jobs(self._work.stage)
        if before:
            queue = self._scheduler.queue()
            if queue is None:
                raise SchedulerError(
                    "the scheduler does not answer, so it is not known which jobs of an earlier command are running",
                    expected="a scheduler that lists its jobs",
                    fix="run the same command again later",
                )
            self._take_over(before, queue)
        if self._live:
            logger.info("%s: %d jobs of an earlier command are running", self._work.stage, len(self._live))
        return len(self._waiting)

    def _take_over(self, before: Sequence[SubmittedJob], queue: Iterable[QueuedJob]) -> None:
        living = living_jobs(self._book, before, queue)
        wanted = {unit.key: unit.digest for unit in (*self._work.siblings, *self._work.units)}
        for job in before:
            if job.name not in living:
                self._book.ended(job)
            elif all(wanted.get(key) == digest for key, digest in job.units.items()):
                self._book.submitted([job])
                self._live[job.name] = job, self._book.events(job)
                self._waiting = [unit for unit in self._waiting if unit.key not in job.units]
            else:
                logger.warning(
                    "%s: job %s of an earlier command is cancelled, because it works with other settings",
                    self._work.stage,
                    job.job,
                )
                self._scheduler.cancel([job.job])
                self._book.ended(job)

    def outcomes(self) -> Iterator[Outcome]:
        """Yields how each unit ended.

        Raises:
            SchedulerError: the scheduler refuses the jobs.
        """
        stop = self._work.stop
        stopped_at: float | None = None
        while self._waiting or self._live:
            if stopped_at is None and stop.requested:
                stopped_at = time.monotonic()
                self._cancel(only_pending=True)
            if stopped_at is None:
                self._submit()
            else:
                yield from [self._ended(Outcome(unit.key, "stopped")) for unit in self._waiting]
                self._waiting = []
                if time.monotonic() - stopped_at > self._options.signal_seconds:
                    self._cancel(only_pending=False)
                    stopped_at = time.monotonic()
            yield from self._listen(stopped_at is not None)
            if self._live:
                self._rest(stop.requested)

    def _rest(self, stopping: bool) -> None:
        until = time.monotonic() + self._options.poll_seconds
        while (left := until - time.monotonic()) > 0 and (stopping or not self._work.stop.requested):
            time.sleep(min(left, _LOOK_EVERY))

    def _submit(self) -> None:
        room = self._options.concurrent_jobs - len(self._live)
        if not self._waiting or room <= 0 or time.monotonic() < self._next_try:
            return
        chunks = self._chunks()
        if self._live and room < min(len(chunks), self._options.concurrent_jobs // 10):
            # A few at a time spare the scheduler.
            return
        chunks = chunks[:room]
        for first in range(0, len(chunks), self._array):
            array = chunks[first : first + self._array]
            jobs = self._book.plan(self._work.stage, array, self._options.cluster)
            events = [self._book.events(job) for job in jobs]
            try:
                calls = [self._make_call(chunk, own) for chunk, own in zip(array, events, strict=True)]
                numbers = self._submitter.submit(calls, jobs[0].token)
            except SchedulerError as error:
                for job in jobs:
                    self._book.ended(job)
                if not self._live:
                    raise
                logger.warning("%s: %s The rest is submitted later", self._work.stage, error)
                self._next_try = time.monotonic() + _TRY_AGAIN_AFTER
                return
            for job, number, own in zip(jobs, numbers, events, strict=True):
                job.job = number
                self._live[job.name] = job, own
            self._book.submitted(jobs)
            taken = {unit.key for chunk in array for unit in chunk}
            self._waiting = [unit for unit in self._waiting if unit.key not in taken]
            logger.info(
                "%s: submitted %d units in %d jobs (%s)", self._work.stage, len(taken), len(jobs), _numbers(numbers)
            )

    def _chunks(self) -> list[list[Unit]]:
        if self._rate is None:
            self._rate = seconds_per_size(self._work.siblings, self._work.workspace)
        # A unit that lost its process may do so again, and take others with it.
        alone = [[unit] for unit in self._waiting if self._losses[unit.key]]
        rest = [unit for unit in self._waiting if not self._losses[unit.key]]
        options = self._options
        return alone + chunked(rest, self._rate, options.chunk_minutes, options.concurrent_jobs, self._together)

    def _cancel(self, only_pending: bool) -> None:
        own = {job.job for job, _ in self._live.values()}
        queue = [job for job in self._scheduler.queue() or [] if job.job in own]
        self._scheduler.cancel([job.job for job in queue if job.pending or not only_pending])

    def _listen(self, stopping: bool) -> Iterator[Outcome]:
        for _, events in self._live.values():
            yield from self._heard(events)
        queue = self._scheduler.queue()
        if queue is None:
            if not self._silent:
                logger.warning("%s: the scheduler does not answer; waiting for it", self._work.stage)
            self._silent = True
            return
        self._silent = False
        living = {job.job for job in queue}
        for name, (job, events) in list(self._live.items()):
            if job.job in living:
                self._gone.pop(name, None)
                continue
            # What a job wrote last may reach this machine after the news that it has ended.
            since = self._gone.setdefault(name, time.monotonic())
            yield from self._heard(events)
            left = [self._open[key] for key in job.units if key in self._open]
            patience = _LATE if any(unit.key in self._claims for unit in left) else self._options.poll_seconds
            if left and time.monotonic() - since < patience:
                continue
            yield from self._settle(job, events, left, stopping)
            del self._live[name]
            self._book.ended(job)

    def _heard(self, events: JobEvents) -> Iterator[Outcome]:
        for outcome in events.new_outcomes():
            if outcome.key in self._open:
                self._claims[outcome.key] = outcome
        for outcome in list(self._claims.values()):
            # A network disk may show the marker later than the news of it, and the next stage needs the marker.
            if outcome.state != "done" or self._is_marked(self._open[outcome.key]):
                yield self._ended(outcome)

    def _is_marked(self, unit: Unit) -> bool:
        with suppress(OSError):
            # Makes such a disk look again.
            os.listdir(self._work.workspace.unit_folder(unit.stage, unit.key).parent)
        return is_done(unit, self._work.workspace)

    def _settle(self, job: SubmittedJob, events: JobEvents, left: Sequence[Unit], stopping: bool) -> Iterator[Outcome]:
        """Decides on the units that a job left behind; the done-marker is the truth."""
        lost: list[Unit] = []
        for unit in left:
            if self._is_marked(unit):
                yield self._ended(_as_marked(unit, self._work))
            elif stopping:
                yield self._ended(Outcome(unit.key, "stopped"))
            else:
                lost.append(unit)
        if not lost:
            return
        if events.was_interrupted:
            logger.info("%s: job %s saved its work before it ended; it is submitted again", job.stage, job.job)
            self._waiting += lost
            return
        death = self._scheduler.death(job.job)
        logger.warning("%s: job %s %s", job.stage, job.job, death.words)
        running = [unit for unit in lost if self._progress(unit).exists()]
        for unit in lost:
            self._progress(unit).unlink(missing_ok=True)
            if unit in running or not running:
                self._losses[unit.key] += 1
            # A job with the same memory would end in the same way.
            hopeless = death.cause is Cause.MEMORY and self._losses[unit.key] > 0
            if hopeless or self._losses[unit.key] >= self._options.attempts:
                yield self._ended(Outcome(unit.key, "failed", message=self._message(job, death, unit)))
            else:
                self._waiting.append(unit)

    def _message(self, job: SubmittedJob, death: Death, unit: Unit) -> str:
        log = self._submitter.log(job.job)
        said = last_line(log) if death.cause is Cause.ENDED else ""
        times = f", like its jobs before ({self._losses[unit.key]} in all)" if self._losses[unit.key] > 1 else ""
        return (
            f"its job {job.job} {death.words}{times}{f': {said}' if said else ''}; to fix it, {_FIXES[death.cause]} "
            f"(options of `execution.submitit`); its log is {log}"
        )

    def _progress(self, unit: Unit) -> Path:
        return progress_file(self._work.progress, unit.key)

    def _ended(self, outcome: Outcome) -> Outcome:
        self._open.pop(outcome.key, None)
        self._claims.pop(outcome.key, None)
        return outcome


def _as_marked(unit: Unit, work: Work) -> Outcome:
    marker = read_marker(work.workspace.unit_folder(unit.stage, unit.key)) or {}
    return Outcome(unit.key, "done", float(marker.get("seconds", 0)), int(marker.get("peak_memory", 0)))


def _numbers(jobs: Sequence[str]) -> str:
    return jobs[0] if len(jobs) == 1 else f"{jobs[0]} to {jobs[-1]}"
