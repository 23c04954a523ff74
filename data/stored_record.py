"""JSON files that one part of Graft writes for others: one typed model each, for the writer and for all readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer, ValidationError, model_validator

from data.errors import GraftError, WorkspaceError
from data.input_file import read_json
from data.option_faults import fault_at

RecordT = TypeVar("RecordT", bound="StoredRecord")
AGAIN = "delete its folder and run its stage again"
WHOLE = PlainSerializer(lambda options: options.model_dump(mode="json"))
"""Marks options of a record that are written with every default: another version may have other defaults."""


class NewerFormatError(WorkspaceError):
    """A newer version of the program wrote a file."""


class StoredRecord(BaseModel):
    """What a file or a part of it holds.

    Keys that another version wrote are passed over, so that a finished study stays readable.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    FORMAT: ClassVar[int] = 1
    """Version of the file; to be raised when a key changes its meaning or goes."""

    def as_json(self) -> dict[str, Any]:
        """What the file holds: its version, and the fields that were given, so that a default is no statement."""
        return {"format": self.FORMAT, **self.model_dump(mode="json", exclude_unset=True)}


class ListRecord(StoredRecord):
    """A file whose only key is a list. Its first version was the bare list."""

    FORMAT: ClassVar[int] = 2

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {next(iter(cls.model_fields)): value} if isinstance(value, list) else value


def read_record(path: Path, model: type[RecordT], fix: str = AGAIN) -> RecordT:
    """Reads a record.

    Args:
        path: the file.
        model: what it holds.
        fix: what the user can do about a damaged file.

    Raises:
        WorkspaceError: it is missing or damaged, or a newer version wrote it (`NewerFormatError`).
    """
    value = read_json(path, WorkspaceError, fix)
    refuse_newer(value, path, model.FORMAT)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise WorkspaceError(
            f"{path}: cannot be read ({fault_at(error)})", expected="what Graft wrote there", fix=fix
        ) from error


def record_if_there(path: Path, model: type[RecordT], fix: str = AGAIN) -> RecordT | None:
    """Reads a record, or returns None where there is none.

    Raises:
        WorkspaceError: the file is damaged.
    """
    return read_record(path, model, fix) if path.is_file() else None


def refuse_newer(
    value: Any, path: Path, known: int, error: type[GraftError] = NewerFormatError, fix: str = "update Graft"
) -> None:
    """Refuses a file of a version that this program does not know yet; a file that names none is of the first.

    Args:
        value: what the file holds.
        path: the file.
        known: the newest version of such files that this program can read.
        error: the class of the error.
        fix: what the user can do.

    Raises:
        GraftError: the file is of a newer version.
    """
    version = value.get("format", 1) if isinstance(value, dict) else 1
    if isinstance(version, int) and version > known:
        raise error(
            f"{path}: was written by a newer version of Graft (format {version})",
            expected=f"format {known} or lower",
            fix=fix,
        )
