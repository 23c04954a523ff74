"""Label names for layouts that need not declare them: from `labels.csv`, else found in the label maps."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.case import Case
from data.checks.finding import Finding, Level
from data.errors import DataError
from data.image_file import read_label
from data.input_file import is_there
from data.label_map import LARGEST_LABEL
from data.layouts.csv_table import read_table

LABELS_FILE = "labels.csv"
"""Names the label values of a dataset whose layout cannot."""

_log = logging.getLogger(__name__)


def read_label_table(path: Path, value_column: str = "value", delimiter: str | None = None) -> dict[int, str]:
    """Reads a table of label values and names (columns `value` and `name`).

    Raises:
        DataError: a column is missing, or a value is not a whole number or has two names.
    """
    names: dict[int, str] = {}
    for number, row in read_table(path, required=(value_column, "name"), delimiter=delimiter).rows:
        text, name = row[value_column], row["name"]
        value = int(text) if text.isdecimal() and len(text) <= len(str(LARGEST_LABEL)) else -1
        if not 0 <= value <= LARGEST_LABEL or not name or names.setdefault(value, name) != name:
            raise DataError(
                f"{path}: line {number} gives the label value {text!r} the name {name!r}",
                expected=f"a whole number from 0 to {LARGEST_LABEL} and a name, each value once",
                fix="correct that line",
            )
    names.setdefault(0, "background")
    return dict(sorted(names.items()))


def label_names_of(root: Path, cases: Iterable[Case]) -> tuple[dict[int, str], list[Finding]]:
    """Returns value → name from `labels.csv` in the folder, or, without one, the values in all label maps.

    A label map that cannot be read adds no values here; the checks report it.

    Returns:
        The names, and a finding that they are not declared.

    Raises:
        DataError: `labels.csv` is broken.
    """
    path = root / LABELS_FILE
    if is_there(path):
        return read_label_table(path), []
    values: set[int] = set()
    for case in cases:
        if case.label is None:
            continue
        try:
            values.update(int(v) for v in np.unique(read_label(case.label).array))
        except DataError as error:
            _log.debug("no label values taken from %s: %s", case.label, error)
    names = {value: f"label {value}" if value else "background" for value in sorted(values | {0})}
    if not values:
        return names, []
    found = f"the dataset does not name its label values, which are {', '.join(str(value) for value in sorted(values))}"
    fix = f"name them in {LABELS_FILE} (columns value,name), or use them as `label 1` and so on"
    return names, [Finding(Level.INFO, None, "label_names", found, fix)]
