"""`record.json` of a preprocessed case, as far as every step says the same: which step, and what it found suspect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.errors import WorkspaceError
from data.input_file import read_json
from data.stored_record import AGAIN, StoredRecord, as_record


class StepRecord(StoredRecord):
    """What one step did. The rest of the record is what the step itself needs to undo it."""

    step: str
    """Name of the step."""
    suspect: tuple[str, ...] = ()
    """Why its outcome is implausible."""


class _Steps(StoredRecord):
    steps: Sequence[StepRecord]


def read_steps(path: Path) -> Sequence[StepRecord]:
    """Reads what the steps found suspect, in their order.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    return as_record({"steps": read_json(path, WorkspaceError, AGAIN)}, path, _Steps).steps
