"""Tables of results: rows with types, and their columns for pandas and other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any, Generic, TypeVar, overload

from data.errors import ConfigError

RowT = TypeVar("RowT")


class Table(Sequence[RowT], Generic[RowT]):
    """Rows of one dataclass; `pandas.DataFrame(table.to_dict())` and `table.to_pandas()` are the same.

    Args:
        row_type: the dataclass of a row, which names and describes the columns.
        rows: in their order.
    """

    def __init__(self, row_type: type[RowT], rows: Sequence[RowT]) -> None:
        self._row_type: Any = row_type
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> RowT: ...
    @overload
    def __getitem__(self, index: slice) -> Table[RowT]: ...
    def __getitem__(self, index: int | slice) -> RowT | Table[RowT]:
        return Table(self._row_type, self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RowT]:
        return iter(self._rows)

    def __repr__(self) -> str:
        return f"Table of {len(self)} rows: {', '.join(self.columns)}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(field.name for field in fields(self._row_type))

    def where(self, **values: Any) -> Table[RowT]:
        """Returns the rows whose columns have these values, e.g. `table.where(arm="dwp", n=5)`.

        Raises:
            ConfigError: there is no such column.
        """
        if unknown := [name for name in values if name not in self.columns]:
            raise ConfigError(
                f"the table has no column {unknown[0]!r}",
                expected=f"one of {', '.join(self.columns)}",
                fix="name one of these",
            )
        kept = [row for row in self._rows if all(getattr(row, name) == value for name, value in values.items())]
        return Table(self._row_type, kept)

    def to_dict(self) -> dict[str, list[Any]]:
        """Returns column → values, as `pandas.DataFrame` takes them."""
        return {name: [getattr(row, name) for row in self._rows] for name in self.columns}

    def to_pandas(self) -> Any:
        """Returns a `pandas.DataFrame`.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ModuleNotFoundError as error:
            raise ConfigError(
                "pandas is not installed",
                expected="pandas beside Graft",
                fix="run `pip install pandas`, or use `to_dict()`",
            ) from error
        return pandas.DataFrame(self.to_dict())
