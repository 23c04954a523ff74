"""What a workspace knows of the units of its stages, while commands run and after: `units/KIND.jsonl`.

A line with all units of the kind, as the last command planned them, then one for each unit that ended. Whether a unit
is done is said by its done-marker alone; the file adds what markers cannot say: what was planned, and why it failed.
`units/command.json` says which stages the last command did, and whether it came to their end.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.errors import WorkspaceError
from data.stored_record import StoredRecord, read_record
from pipeline.execution.unit import Outcome, Unit
from pipeline.storage.atomic import write_record
from pipeline.storage.line_file import append_line, read_lines
from pipeline.storage.workspace import Workspace

UNITS = "units"
"""Folder of the workspace."""
_SUFFIX = ".jsonl"
_COMMAND = "command.json"


class CommandRecord(StoredRecord):
    """The content of `command.json`."""

    stages: tuple[str, ...]
    """Stages that the command does."""
    ended: bool
    """Whether it has done them."""


@contextmanager
def noted_command(workspace: Workspace, stages: Sequence[str]) -> Iterator[None]:
    """Notes which stages a command does, and at the end of the block that it has done them."""
    record = CommandRecord(stages=tuple(stages), ended=False)
    _note(workspace, record)
    yield
    _note(workspace, record.model_copy(update={"ended": True}))


def _note(workspace: Workspace, record: CommandRecord) -> None:
    path = workspace.root / UNITS / _COMMAND
    # A disk that is full stops units, never this: nothing depends on it.
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        write_record(path, record)


def last_command(workspace: Path) -> CommandRecord | None:
    """Reads what the last command did; `None` if that is not known."""
    try:
        return read_record(workspace / UNITS / _COMMAND, CommandRecord)
    except WorkspaceError:
        return None


@dataclass(frozen=True)
class PlannedUnit:
    """A unit as the ledger knows it: the size and the digest of its recipe."""

    size: float
    digest: str


@dataclass(frozen=True)
class Chapter:
    """What the last command did with the units of one kind.

    Attributes:
        kind: folder of the kind.
        began: when the command came to them, in seconds since 1970.
        host: its machine.
        process: its number there.
        units: all of them, by key.
        waiting: keys of those that were to do.
        outcomes: of those that ended, by key.
    """

    kind: str
    began: float
    host: str
    process: int
    units: dict[str, PlannedUnit]
    waiting: tuple[str, ...]
    outcomes: dict[str, Outcome] = field(default_factory=dict)


class Ledger:
    """Writes down what happens to the units of one kind.

    A disk that is full stops units, never this: nothing depends on it.
    """

    def __init__(self, workspace: Workspace, kind: str) -> None:
        self._path = workspace.root / UNITS / f"{kind}{_SUFFIX}"

    def begin(self, units: Sequence[Unit], waiting: Sequence[Unit]) -> None:
        """Notes what there is and what is to do; what earlier commands noted goes."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
            append_line(
                self._path,
                {
                    "began": time.time(),
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "units": {unit.key: [unit.size, unit.digest] for unit in units},
                    "waiting": [unit.key for unit in waiting],
                },
            )

    def end(self, outcome: Outcome) -> None:
        """Notes how a unit ended."""
        with suppress(OSError):
            append_line(self._path, {"ended": asdict(outcome)})


def read_ledger(workspace: Path) -> list[Chapter]:
    """Reads the chapters of all kinds, the one that began first at the beginning."""
    found = [_chapter(path) for path in sorted((workspace / UNITS).glob(f"*{_SUFFIX}"))]
    return sorted((chapter for chapter in found if chapter is not None), key=lambda chapter: chapter.began)


def _chapter(path: Path) -> Chapter | None:
    chapter = None
    for line in read_lines(path):
        if "units" in line:
            units = {key: PlannedUnit(float(size), str(own)) for key, (size, own) in line["units"].items()}
            chapter = Chapter(
                path.name.removesuffix(_SUFFIX),
                float(line["began"]),
                str(line["host"]),
                int(line["process"]),
                units,
                tuple(line["waiting"]),
            )
        elif chapter is not None and "ended" in line:
            outcome = Outcome(**line["ended"])
            chapter.outcomes[outcome.key] = outcome
    return chapter
