"""Safetensors files that are written and read a few rows at a time, for tables that need not fit in memory.

The format (https://huggingface.co/docs/safetensors) puts a JSON header with the place of every tensor before the data.
With the number of rows known beforehand, the header can be written first and the columns be filled as rows come; the
library itself writes only tensors that are in memory as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pipeline.storage.atomic import temporary_sibling
from pipeline.storage.tensors import metadata, reading, require_finite

_TYPES = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}


@dataclass(frozen=True)
class Column:
    """One tensor of a table.

    Attributes:
        dtype: type of its numbers.
        row: shape of one row; empty for a number per row.
    """

    dtype: torch.dtype
    row: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.dtype.itemsize * math.prod(self.row)


class TableWriter:
    """Fills the columns of a table; use `writing_table`.

    Args:
        stream: the file, at its start.
        columns: of the table, by name.
        rows: how many there will be.
        about: JSON-able description.
    """

    def __init__(
        self, stream: BinaryIO, columns: Mapping[str, Column], rows: int, about: Mapping[str, Any] | None
    ) -> None:
        self._stream = stream
        self._columns = dict(columns)
        self._rows = rows
        self._written = 0
        header: dict[str, Any] = {"__metadata__": metadata(about)}
        end = 0
        offsets = {}
        # Wide types first, so that every column starts at a multiple of its item size.
        for name, column in sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
            start, end = end, end + rows * column.row_bytes
            shape = [rows, *column.row]
            header[name] = {"dtype": _TYPES[column.dtype], "shape": shape, "data_offsets": [start, end]}
            offsets[name] = start
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        stream.write(len(text).to_bytes(8, "little") + text)
        self._starts = {name: 8 + len(text) + offset for name, offset in offsets.items()}
        stream.truncate(8 + len(text) + end)

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Writes the next rows of all columns.

        Raises:
            ValueError: a column is missing or of another shape, or there are more rows than were announced.
        """
        count = len(next(iter(rows.values())))
        if self._written + count > self._rows:
            raise ValueError(f"{self._written + count} rows for a table of {self._rows}")
        for name, column in self._columns.items():
            values = rows[name].detach().to("cpu", column.dtype).contiguous()
            if tuple(values.shape) != (count, *column.row):
                raise ValueError(f"rows of shape {tuple(values.shape)} for the column {name!r} of {column.row}")
            self._stream.seek(self._starts[name] + self._written * column.row_bytes)
            self._stream.write(values.numpy().tobytes())
        self._written += count

    @property
    def is_full(self) -> bool:
        """Whether all announced rows are there."""
        return self._written == self._rows


@contextmanager
def writing_table(
    path: Path, columns: Mapping[str, Column], rows: int, about: Mapping[str, Any] | None = None
) -> Iterator[TableWriter]:
    """Opens a table to be written; the file takes its name when all rows are there.

    Args:
        path: where.
        columns: of the table, by name.
        rows: how many there will be.
        about: JSON-able description.

    Raises:
        ValueError: fewer rows were written than announced.
    """
    with temporary_sibling(path) as temporary:
        with temporary.open("wb") as stream:
            writer = TableWriter(stream, columns, rows, about)
            yield writer
        if not writer.is_full:
            raise ValueError(f"{path}: fewer rows than the {rows} that were announced")


def count_rows(path: Path, name: str) -> int:
    """Returns the length of a column.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    with reading(path, "pt") as stream:
        return int(stream.get_slice(name).get_shape()[0])


def read_tensor_rows(path: Path, names: Sequence[str], start: int, stop: int) -> dict[str, Tensor]:
    """Reads the rows from `start` to `stop` of some columns.

    Raises:
        WorkspaceError: the file is missing, damaged, lacks a column, or holds numbers that are not finite.
    """
    # Opened anew for each call: a file kept open keeps every page that was read in the memory of the process.
    with reading(path, "pt") as stream:
        rows = {name: stream.get_slice(name)[start:stop].clone() for name in names}
    return {name: require_finite(path, name, column) for name, column in rows.items()}


def read_chunks(
    path: Path, names: Sequence[str], ranges: Iterable[tuple[int, int]], rows: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Reads ranges of rows in chunks.

    Args:
        path: of the table.
        names: columns.
        ranges: first row and the one after the last, of each.
        rows: most rows of a chunk.

    Yields:
        The number of the chunk's first row, and its columns.

    Raises:
        WorkspaceError: the file is missing, damaged, or lacks a column.
    """
    for first, last in ranges:
        for start in range(first, last, rows):
            yield start, read_tensor_rows(path, names, start, min(start + rows, last))
