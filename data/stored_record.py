"""JSON files that one part of Graft writes for others: one typed model each, for the writer and for all readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from data.errors import WorkspaceError
from data.input_file import read_json
from data.option_faults import fault_at

RecordT = TypeVar("RecordT", bound="StoredRecord")
AGAIN = "delete its folder and run its stage again"


class StoredRecord(BaseModel):
    """What a file holds. Keys that another version wrote are passed over, so that a finished study stays readable."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def as_json(self) -> dict[str, Any]:
        """What is written: the fields that were given, so that a default is no statement."""
        return self.model_dump(mode="json", exclude_unset=True)


def read_record(path: Path, model: type[RecordT], fix: str = AGAIN) -> RecordT:
    """Reads a record.

    Args:
        path: the file.
        model: what it holds.
        fix: what the user can do about a damaged file.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return as_record(read_json(path, WorkspaceError, fix), path, model, fix)


def record_if_there(path: Path, model: type[RecordT]) -> RecordT | None:
    """Reads a record, or returns None where there is none.

    Raises:
        WorkspaceError: the file is damaged.
    """
    return read_record(path, model) if path.is_file() else None


def as_record(value: Any, path: Path, model: type[RecordT], fix: str = AGAIN) -> RecordT:
    """Takes what a file holds for a record.

    Raises:
        WorkspaceError: it is something else.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise WorkspaceError(
            f"{path}: cannot be read ({fault_at(error)})", expected="what Graft wrote there", fix=fix
        ) from error
