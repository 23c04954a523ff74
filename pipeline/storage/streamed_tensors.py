"""Safetensors files that are written and read a few rows at a time, for tables that need not fit into memory.

The format (https://huggingface.co/docs/safetensors) has a JSON header with the place of every tensor before the data.
If the number of rows is known, the header can be written first and the columns filled as rows come; the library itself
only writes tensors that are completely in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """One tensor of a table: the type of its values and the shape of one row (empty for a scalar)."""

    dtype: torch.dtype
    row: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.dtype.itemsize * math.prod(self.row)


Append = Callable[[Mapping[str, Tensor]], None]
"""Writes the next rows of all columns; raises a ValueError for another shape or too many rows."""


def _write_header(
    stream: BinaryIO, columns: Mapping[str, Column], rows: int, about: Mapping[str, Any] | None
) -> dict[str, int]:
    """Writes the header, makes room for the data, and returns the place of each column in the file."""
    header: dict[str, Any] = {"__metadata__": metadata(about)}
    end = 0
    # Wide types first, so that every column starts at a multiple of its item size.
    for name, column in sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        start, end = end, end + rows * column.row_bytes
        shape = [rows, *column.row]
        header[name] = {"dtype": _TYPES[column.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    stream.truncate(8 + len(text) + end)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in columns}


@contextmanager
def writing_table(
    path: Path, columns: Mapping[str, Column], rows: int, about: Mapping[str, Any] | None = None
) -> Iterator[Append]:
    """Yields a function that appends rows to a table; the file gets its name when all rows are written.

    Raises:
        ValueError: fewer rows were written than announced.
    """
    written = 0
    with temporary_sibling(path) as temporary:
        with temporary.open("wb") as stream:
            starts = _write_header(stream, columns, rows, about)

            def append(own: Mapping[str, Tensor]) -> None:
                nonlocal written
                count = len(next(iter(own.values())))
                if written + count > rows:
                    raise ValueError(f"{written + count} rows for a table of {rows}")
                for name, column in columns.items():
                    values = own[name].detach().to("cpu", column.dtype).contiguous()
                    if tuple(values.shape) != (count, *column.row):
                        raise ValueError(f"rows of shape {tuple(values.shape)} for the column {name!r} of {column.row}")
                    stream.seek(starts[name] + written * column.row_bytes)
                    stream.write(values.numpy().tobytes())
                written += count

            yield append
        if written < rows:
            raise ValueError(f"{path}: fewer rows than the announced {rows}")


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
    # Opened for each call: an open file keeps every page that was read in the memory of the process.
    with reading(path, "pt") as stream:
        rows = {name: stream.get_slice(name)[start:stop].clone() for name in names}
    return {name: require_finite(path, name, column) for name, column in rows.items()}


def read_chunks(
    path: Path, names: Sequence[str], ranges: Iterable[tuple[int, int]], rows: int
) -> Iterator[dict[str, Tensor]]:
    """Yields the columns `names` in ranges of rows (first, one after the last), in chunks of at most `rows` rows.

    Raises:
        WorkspaceError: the file is missing, damaged, or lacks a column.
    """
    for first, last in ranges:
        for start in range(first, last, rows):
            yield read_tensor_rows(path, names, start, min(start + rows, last))
