"""What tables, figures and text have to know of a number that is measured: its name, unit, direction, digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_KEY = "measure"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of a table of results that is averaged, compared and shown.

    Attributes:
        title: as tables and figures print it.
        unit: e.g. `mm`; empty for a pure number.
        less_is_better: whether the smallest mean is the best.
        digits: decimals that are printed.
    """

    title: str
    unit: str = ""
    less_is_better: bool = False
    digits: int = 3

    def column(self) -> Mapping[str, Any]:
        """Returns the metadata that make a field of a row this measure: `dice: float = field(metadata=…)`."""
        return {_KEY: self}

    @property
    def full_title(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


def measures(row_type: type[Any]) -> dict[str, Any]:
    """Returns column → measure of a row's type, in the order of its fields."""
    return {f.name: f.metadata[_KEY] for f in fields(row_type) if _KEY in f.metadata}
