"""Small CSV and TSV files with a header: read as rows of text, with line numbers for messages.

The habits of spreadsheets are accepted: a first line `sep=;`, semicolons or tabs, UTF-16, empty columns, and any case
of the column names that Graft knows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.input_file import decode, read_text, require_regular_file

_EXPECTED = "a CSV file"
_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<separator>.)"?[,;\t]*\s*', re.IGNORECASE)
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Table:
    """The columns of a table, in their order, and its rows with the line each one ends on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_table(
    path: Path, required: Sequence[str], delimiter: str | None = None, optional: Sequence[str] = ()
) -> Table:
    """Reads a table whose first line names the columns; spaces around cells, empty lines and empty columns are dropped.

    Args:
        path: the file.
        required: columns that have to be there, in any case (`Case` is `case`).
        delimiter: what separates cells; by default what the file says (`sep=;`), or what separates the required columns
            in the first line (which depends on the country of the spreadsheet).
        optional: other columns that are recognised in any case.

    Raises:
        DataError: the file is missing or not text, lacks a column, repeats one, or has a line of another length.
    """
    text, skipped, delimiter = _split_off_separator(read_text(path, _EXPECTED), required, delimiter)
    lines = _lines(path, text, delimiter, skipped)
    columns = _columns(next(lines, (0, []))[1], (*required, *optional))
    _check_columns(path, columns, required)
    places = {column: place for place, column in enumerate(columns) if column}
    rows = []
    for number, cells in lines:
        if any(cells):
            _check_cells(path, number, cells, places)
            rows.append((number, {column: cells[place] for column, place in places.items()}))
    return Table(tuple(places), tuple(rows))


def _lines(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yields the cells of each row with the line of the file on which it ends; `skipped` lines precede the text.

    Raises:
        DataError: a line cannot be read.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            yield reader.line_num + skipped, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num + skipped} cannot be read ({error})",
            expected="cells of a few words",
            fix="correct that line (is a quotation mark missing?)",
        ) from error


def has_columns(path: Path, required: Sequence[str]) -> bool:
    """Whether the first line of a CSV file names these columns; reads only the beginning of the file.

    Raises:
        DataError: it is not a regular file, or cannot be opened.
    """
    require_regular_file(path, _EXPECTED)
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", expected=_EXPECTED, fix="allow it") from error
    text, _, delimiter = _split_off_separator(decode(head, errors="replace"), required, None)
    return _names_all(text, delimiter, required)


def _split_off_separator(text: str, required: Sequence[str], delimiter: str | None) -> tuple[str, int, str]:
    """Returns the text without a line `sep=;`, the number of lines removed, and what separates the cells."""
    first, _, rest = text.partition("\n")
    if match := _SEPARATOR_LINE.fullmatch(first):
        return rest, 1, delimiter or match["separator"]
    if delimiter is None:
        guess = next((d for d in _SEPARATORS[1:] if d in first and "," not in first), ",")
        delimiter = next((d for d in _SEPARATORS if _names_all(text, d, required)), guess)
    return text, 0, delimiter


def _names_all(text: str, delimiter: str, required: Sequence[str]) -> bool:
    try:
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return False
    return set(required) <= set(_columns(cells, required))


def _columns(cells: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of the columns; known ones in the spelling of `known`."""
    spelling = {_plain(name): name for name in known}
    return [spelling.get(_plain(cell.strip()), cell.strip()) for cell in cells]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    named = [column for column in columns if column]
    absent = [name for name in required if name not in named]
    if absent or len(set(named)) != len(named):
        wrong = f"has no column `{absent[0]}`" if absent else "names a column twice"
        raise DataError(
            f"{path}: the first line {wrong} ({', '.join(named)[:200] or 'it is empty'})",
            expected=f"the columns {', '.join(f'`{name}`' for name in required)}, each once",
            fix="correct the first line",
        )


def _check_cells(path: Path, number: int, cells: Sequence[str], places: Mapping[str, int]) -> None:
    needed = max(places.values()) + 1
    spare = [cell for place, cell in enumerate(cells) if cell and place not in places.values()]
    if len(cells) < needed or spare:
        more = f", {spare[0][:40]!r} in no column with a name" if spare else ""
        raise DataError(
            f"{path}: line {number} has {len(cells)} cells{more}",
            expected=f"{needed}, as many as the first line has names",
            fix="correct that line (quote a cell that holds a comma)",
        )
