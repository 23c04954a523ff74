"""How far the units of a workspace are, read from its files alone: the command may run on another machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.execution.cluster.job_fates import FindScheduler, JobFates, job_fates
from pipeline.execution.cluster.job_files import JOBS, JobBook, SubmittedJob
from pipeline.execution.cluster.living_jobs import scheduler_of
from pipeline.execution.ledger import Chapter, last_command, read_ledger
from pipeline.execution.progress import PROGRESS, progress_file, time_left
from pipeline.execution.unit import MARKER, Outcome
from pipeline.storage.lock import working_command
from pipeline.storage.owned_folder import read_manifest
from pipeline.storage.stage_names import Stage


class UnitState(StrEnum):
    """Where a unit stands."""

    DONE = "done"
    """Its done-marker says so."""
    RUNNING = "running"
    """It reports progress."""
    QUEUED = "queued"
    """Its job is pending."""
    WAITING = "waiting"
    """It has not been started."""
    FAILED = "failed"
    """The last attempt failed."""
    STOPPED = "stopped"
    """It was told to stop, or its command or its job is gone; the next command does it."""


@dataclass(frozen=True)
class UnitStatus:
    """A unit: where it stands, its job, the share done, seconds of work, why it ended, and the log of its job."""

    key: str
    state: UnitState
    job: str = ""
    fraction: float = 0.0
    seconds: float = 0.0
    message: str = ""
    log: Path | None = None


@dataclass(frozen=True)
class KindStatus:
    """The units of one kind, and the seconds that are left for them if a command works on them."""

    kind: str
    units: tuple[UnitStatus, ...]
    seconds_left: float | None = None

    @property
    def counts(self) -> Mapping[UnitState, int]:
        """Units in each state."""
        return Counter(unit.state for unit in self.units)


@dataclass(frozen=True)
class StudyStatus:
    """A workspace.

    Attributes:
        kinds: those that commands have come to.
        command: host and process of who works in it; `None` if nobody does.
        finished: whether nobody works in it, because all that there is to do is done.
        unasked: why it is not known which of its jobs live, if there are any and no command looks after them.
    """

    kinds: tuple[KindStatus, ...]
    command: tuple[str, int] | None
    finished: bool = False
    unasked: str = ""


def study_status(workspace: Path, find_scheduler: FindScheduler = scheduler_of) -> StudyStatus:
    """Reads how far a workspace is; asks the scheduler of jobs that no command looks after."""
    command = working_command(workspace)
    book, chapters = JobBook(workspace / JOBS), read_ledger(workspace)
    hosts = {chapter.kind: chapter.host for chapter in chapters}
    fates = JobFates() if command else job_fates(book, hosts, find_scheduler)
    kinds = tuple(_kind(workspace, chapter, command, book, fates) for chapter in chapters)
    last = last_command(workspace)
    done = all(unit.state is UnitState.DONE for kind in kinds for unit in kind.units)
    finished = command is None and done and last is not None and last.ended and last.stages[-1:] == (Stage.REPORT,)
    return StudyStatus(kinds, command, finished, fates.unasked)


def _kind(
    workspace: Path, chapter: Chapter, command: tuple[str, int] | None, book: JobBook, fates: JobFates
) -> KindStatus:
    # Jobs go on without their command.
    open_jobs = {key: job for job in book.open_jobs(chapter.kind) for key in job.units}
    last_jobs = {key: job for job in book.jobs(chapter.kind) for key in job.units}
    works = command == (chapter.host, chapter.process)
    heard = {} if works else _heard(book, open_jobs.values())
    units, doing = [], 0.0
    for key, planned in chapter.units.items():
        job = last_jobs.get(key)
        number, log = ("", None) if job is None else (job.job, book.folder / chapter.kind / f"{job.job}_0_log.out")
        marker = read_manifest(workspace / chapter.kind / key / MARKER)
        if marker is not None and marker.get("digest") == planned.digest:
            seconds = float(marker.get("seconds", 0.0))
            units.append(UnitStatus(key, UnitState.DONE, number, 1.0, seconds))
            continue
        outcome = chapter.outcomes.get(key) or heard.get(key)
        own = open_jobs.get(key)
        end = fates.ends.get(own.name, "") if own is not None else ""
        living = own is not None and not end
        pending = own is not None and own.name in fates.pending
        fraction = _fraction(progress_file(workspace / PROGRESS, key))
        if outcome is not None and outcome.state in {"failed", "stopped"}:
            state = UnitState(outcome.state)
        elif fraction is not None and (works or living) and not pending:
            state = UnitState.RUNNING
            doing += planned.size * fraction
        elif living:
            state = UnitState.QUEUED
        else:
            state = UnitState.WAITING if works else UnitState.STOPPED
        message = end if outcome is None else outcome.message
        seconds = 0.0 if outcome is None else outcome.seconds
        units.append(UnitStatus(key, state, number, fraction or 0.0, seconds, message, log))
    going_on = works or any(unit.state in (UnitState.RUNNING, UnitState.QUEUED) for unit in units)
    return KindStatus(chapter.kind, tuple(units), _left(chapter, units, doing) if going_on else None)


def _heard(book: JobBook, jobs: Iterable[SubmittedJob]) -> dict[str, Outcome]:
    """How units ended in jobs while no command listened."""
    names = {job.name: job for job in jobs}
    return {outcome.key: outcome for job in names.values() for outcome in book.events(job).new_outcomes()}


def _left(chapter: Chapter, units: list[UnitStatus], doing: float) -> float | None:
    """Seconds that are left for the units that were to do when the command came to them."""
    waiting = set(chapter.waiting)
    total = sum(chapter.units[key].size for key in waiting)
    ended = {unit.key for unit in units if unit.state in (UnitState.DONE, UnitState.FAILED)} & waiting
    fraction = (sum(chapter.units[key].size for key in ended) + doing) / total if total else 1.0
    return time_left(time.time() - chapter.began, fraction)


def _fraction(path: Path) -> float | None:
    """What a unit reports; `None` if it is not running."""
    try:
        return min(max(float(path.read_text() or 0), 0.0), 1.0)
    except (OSError, ValueError):
        return None
