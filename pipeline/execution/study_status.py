"""How far the units of a workspace are, read from its files alone: the command may run on another machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.execution.cluster.job_files import JOBS, JobBook
from pipeline.execution.ledger import Chapter, read_ledger
from pipeline.execution.progress import PROGRESS, progress_file, time_left
from pipeline.execution.unit import MARKER
from pipeline.storage.lock import working_command
from pipeline.storage.owned_folder import read_manifest


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
    """It was told to stop, or its command is gone; the next command does it."""


@dataclass(frozen=True)
class UnitStatus:
    """A unit: where it stands, its job, the share done, seconds of work, why it failed, and the log of its job."""

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
    """A workspace: the kinds that commands have come to, and who works in it (host and process, or nobody)."""

    kinds: tuple[KindStatus, ...]
    command: tuple[str, int] | None


def study_status(workspace: Path) -> StudyStatus:
    """Reads how far a workspace is."""
    command = working_command(workspace)
    kinds = [_kind(workspace, chapter, command) for chapter in read_ledger(workspace)]
    return StudyStatus(tuple(kinds), command)


def _kind(workspace: Path, chapter: Chapter, command: tuple[str, int] | None) -> KindStatus:
    # Jobs go on without their command.
    book = JobBook(workspace / JOBS)
    open_jobs = {key: job for job in book.open_jobs(chapter.kind) for key in job.units}
    last_jobs = {key: job for job in book.jobs(chapter.kind) for key in job.units}
    works = command == (chapter.host, chapter.process)
    units, doing = [], 0.0
    for key, planned in chapter.units.items():
        outcome = chapter.outcomes.get(key)
        job = last_jobs.get(key)
        number, log = ("", None) if job is None else (job.job, book.folder / chapter.kind / f"{job.job}_0_log.out")
        marker = read_manifest(workspace / chapter.kind / key / MARKER)
        if marker is not None and marker.get("digest") == planned.digest:
            seconds = float(marker.get("seconds", 0.0))
            units.append(UnitStatus(key, UnitState.DONE, number, 1.0, seconds))
            continue
        fraction = _fraction(progress_file(workspace / PROGRESS, key))
        if outcome is not None and outcome.state in {"failed", "stopped"}:
            state = UnitState(outcome.state)
        elif fraction is not None and (works or key in open_jobs):
            state = UnitState.RUNNING
            doing += planned.size * fraction
        elif key in open_jobs:
            state = UnitState.QUEUED
        else:
            state = UnitState.WAITING if works else UnitState.STOPPED
        message = "" if outcome is None else outcome.message
        seconds = 0.0 if outcome is None else outcome.seconds
        units.append(UnitStatus(key, state, number, fraction or 0.0, seconds, message, log))
    return KindStatus(chapter.kind, tuple(units), _left(chapter, units, doing) if works or open_jobs else None)


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
