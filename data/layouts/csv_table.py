"""Small CSV and TSV files with a header: read as rows of text, with line numbers for messages."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError


@dataclass(frozen=True)
class Table:
    """The columns of a table, in their order, and its rows with the line each one ends on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_table(path: Path, required: tuple[str, ...], delimiter: str | None = None) -> Table:
    """Reads a table whose first line names the columns; spaces around cells and empty lines are dropped.

    Args:
        path: the file.
        required: columns that have to be there.
        delimiter: what separates cells; by default a semicolon or tab if the first line has one and no comma, else a
            comma (spreadsheets write what their country uses).

    Raises:
        DataError: the file is missing or not text, lacks a column, repeats one, or has a line of another length.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error})", expected="a CSV file in UTF-8", fix="save it so"
        ) from error
    first = lines[0] if lines else ""
    if delimiter is None:
        delimiter = next((d for d in ";\t" if d in first and "," not in first), ",")
    reader = csv.reader(lines, delimiter=delimiter)
    columns = tuple(cell.strip() for cell in next(reader, []))
    absent = [name for name in required if name not in columns]
    if absent or len(set(columns)) != len(columns):
        wrong = f"has no column `{absent[0]}`" if absent else "names a column twice"
        raise DataError(
            f"{path}: the first line {wrong} ({', '.join(columns) or 'it is empty'})",
            expected=f"the columns {', '.join(f'`{name}`' for name in required)}, each once",
            fix="correct the first line",
        )
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{path}: line {reader.line_num} has {len(cells)} cells",
                expected=f"{len(columns)}, as many as the first line",
                fix="correct that line (quote a cell that holds a comma)",
            )
        rows.append((reader.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    return Table(columns, tuple(rows))
