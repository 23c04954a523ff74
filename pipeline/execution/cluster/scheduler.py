"""What the command asks of a scheduler beside submitting: which jobs live, and how one died."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from data.errors import GraftError


class SchedulerError(GraftError):
    """The scheduler refuses a job, or there is none."""


class Cause(StrEnum):
    """Why a job ended before its units."""

    MEMORY = "memory"
    """It used more memory than it had asked for."""
    TIME = "time"
    """It reached its time limit."""
    NODE = "node"
    """Its node failed."""
    CANCELLED = "cancelled"
    """Somebody cancelled it, or a job of higher priority took its place."""
    KILLED = "killed"
    """Its process was killed."""
    ENDED = "ended"
    """Its program ended with an error."""
    UNKNOWN = "unknown"
    """The scheduler no longer knows."""


@dataclass(frozen=True)
class Death:
    """How a job ended before its units.

    Attributes:
        cause: why.
        words: the same for people, as the end of a sentence: "job 12 …".
    """

    cause: Cause
    words: str


@dataclass(frozen=True)
class QueuedJob:
    """A job that the scheduler has not ended.

    Attributes:
        job: its number.
        name: that it was given.
        state: as the scheduler calls it, in capitals.
        reason: why it is pending, if it says.
    """

    job: str
    name: str
    state: str
    reason: str = ""

    @property
    def pending(self) -> bool:
        """Whether it has not begun."""
        return self.state == "PENDING"


class Scheduler(Protocol):
    """The queue of a cluster."""

    def queue(self) -> list[QueuedJob] | None:
        """The living jobs of this user; `None` if the scheduler does not answer now."""
        ...

    def death(self, job: str) -> Death:
        """How a job ended that is no longer in the queue."""
        ...

    def cancel(self, jobs: Collection[str]) -> None:
        """Ends jobs: pending ones at once, running ones with a signal on which they save."""
        ...

    def largest_array(self) -> int | None:
        """The most jobs of one array; `None` where there are no arrays."""
        ...
