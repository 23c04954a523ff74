"""Tables on disk: one dataclass a row, floats in full precision, an empty field for what is not there."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, TypeVar

from data.errors import WorkspaceError
from pipeline.storage.atomic import write_text
from pipeline.storage.spreadsheet_cell import escaped, unescaped

Row = TypeVar("Row")

_EXPECTED = {"int": "a whole number", "int | None": "a whole number or nothing", "float": "a number or nothing"}


def _read_cell(kind: str, cell: str) -> object:
    if kind == "float":
        return float(cell) if cell else math.nan
    if kind == "int | None":
        return int(cell) if cell else None
    return int(cell) if kind == "int" else unescaped(cell)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    return escaped(value) if isinstance(value, str) else str(value)


def columns(row_type: type[Any]) -> tuple[str, ...]:
    """Names of the columns of a table: the fields of its row, a dataclass of `str`, `int`, `float` and `int | None`."""
    return tuple(f.name for f in fields(row_type))


def write_rows(path: Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Writes a table atomically, in the order given; NaN and None become empty fields, infinity `inf`.

    Text that looks like a formula is marked as text (`pipeline.storage.spreadsheet_cell`).
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = columns(row_type)
    writer.writerow(names)
    writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    write_text(path, stream.getvalue())


def read_rows(path: Path, row_type: Callable[..., Row], *, fix: str = "run the evaluate stage again") -> list[Row]:
    """Reads a table; columns it does not know are ignored, and those with a default may be missing.

    Args:
        path: the file.
        row_type: the dataclass of a row.
        fix: what the user can do about a damaged file.

    Returns:
        The rows in the order of the file.

    Raises:
        WorkspaceError: the file is missing, lacks a column, or holds a value of the wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path}: cannot be read ({error})", expected="a table", fix=fix) from error
    reader = csv.DictReader(io.StringIO(text))
    known: tuple[Field[Any], ...] = fields(row_type)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is MISSING]
    missing = [name for name in needed if name not in (reader.fieldnames or [])]
    if missing:
        raise WorkspaceError(f"{path}: no column {', '.join(missing)}", expected=",".join(needed), fix=fix)
    return [row_type(**_values(path, reader.line_num, record, known, fix)) for record in reader]


def rows_if_there(path: Path, row_type: Callable[..., Row]) -> list[Row]:
    """Reads a table, or returns no rows where there is none.

    Raises:
        WorkspaceError: the file is damaged.
    """
    return read_rows(path, row_type) if path.is_file() else []


def _values(path: Path, line: int, record: dict[str, str], known: Iterable[Field[Any]], fix: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for field in known:
        cell, kind = record.get(field.name), str(field.type)
        if cell is None:
            if field.default is MISSING:
                raise WorkspaceError(f"{path}: line {line} ends before {field.name}", expected="whole rows", fix=fix)
            continue
        try:
            values[field.name] = _read_cell(kind, cell)
        except ValueError as error:
            expected = _EXPECTED.get(kind, "text")
            raise WorkspaceError(
                f"{path}: line {line}, {field.name} is {cell!r}", expected=expected, fix=fix
            ) from error
    return values
