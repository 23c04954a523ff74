"""A CSV manifest: one line for each case, with the path of each channel.

Columns: `case`, one for each channel (its name is the channel's), and, optionally, `patient`, `label` and `brain_mask`.
Relative paths are relative to the manifest. `labels.csv` (value,name) beside it names the labels.
"""

from __future__ import annotations

from pathlib import Path

from data.case import Case, ImageSource
from data.dataset import Dataset
from data.errors import DataError
from data.input_file import is_there
from data.layouts.csv_table import has_columns, read_table
from data.layouts.patients import PATIENTS_FILE, group_cases
from data.layouts.undeclared_labels import LABELS_FILE, label_names_of
from data.names import check_name

_NO_CHANNEL = ("case", "patient", "label", "brain_mask")


class CsvManifestLayout:
    """A CSV file, or a folder with one, whose first line has the column `case`."""

    name = "csv"
    description = (
        "CSV manifest: a file with the columns case, one per channel, and optionally patient, label, brain_mask"
    )

    def matches(self, root: Path) -> bool:
        """Whether the path is a CSV file, or a folder that holds a CSV file with the column `case`."""
        return (root.is_file() and root.suffix.lower() == ".csv") or (root.is_dir() and bool(_manifests(root)))

    def read(self, root: Path, labels: bool = True) -> Dataset:
        """Reads the dataset; see `Layout.read`."""
        path = root
        if root.is_dir():
            manifests = _manifests(root)
            if len(manifests) != 1:
                names = ", ".join(file.name for file in manifests)
                raise DataError(
                    f"{root}: holds several manifests ({names})", expected="one", fix="name the file itself"
                )
            path = manifests[0]
        folder = path.parent
        table = read_table(path, required=("case",), optional=_NO_CHANNEL)
        channels = tuple(column for column in table.columns if column not in _NO_CHANNEL)
        if not channels or not table.rows:
            raise DataError(
                f"{path}: has {'no case' if channels else 'no column for a channel'}",
                expected="a column with the paths for each channel, and a line for each case",
                fix="see the CSV layout in the documentation",
            )
        cases: dict[str, Case] = {}
        for number, row in table.rows:
            case = _case(path, number, row, channels)
            if case.name in cases:
                raise DataError(
                    f"{path}: line {number} lists case {case.name!r} again", expected="each case once", fix="rename it"
                )
            cases[case.name] = case
        own_patients = "patient" in table.columns
        if own_patients and is_there(folder / PATIENTS_FILE):
            grouped, has_patients = tuple(sorted(cases.values(), key=lambda c: c.name)), True
        else:
            grouped, has_patients = group_cases(folder, list(cases.values()), grouped_by_layout=own_patients)
        label_names, findings = label_names_of(folder, grouped) if labels else ({}, [])
        return Dataset(folder, self.name, grouped, channels, label_names, has_patients, tuple(findings))

    def explain(self, root: Path) -> None:
        """Explains why the first CSV file of a folder without a layout is not a manifest; does nothing without one.

        Raises:
            DataError: its fault, as if the user had named the file.
        """
        for file in _tables(root):
            read_table(file, required=("case",), optional=_NO_CHANNEL)


def _tables(root: Path) -> list[Path]:
    """CSV files in the folder other than the tables of patients and labels."""
    return [f for f in sorted(root.glob("[!.]*.csv")) if f.name not in (PATIENTS_FILE, LABELS_FILE)]


def _manifests(root: Path) -> list[Path]:
    """Those that have the column `case`."""
    return [file for file in _tables(root) if file.is_file() and has_columns(file, ("case",))]


def _case(path: Path, number: int, row: dict[str, str], channels: tuple[str, ...]) -> Case:
    folder = path.parent
    name, patient = row["case"], row.get("patient", row["case"])
    check_name("case", name, f"{path}, line {number}")
    check_name("patient", patient, f"{path}, line {number}")
    sources = {channel: ImageSource(folder / row[channel]) for channel in channels if row[channel]}
    if not sources:
        raise DataError(f"{path}: line {number} has no image", expected="a path for a channel", fix="fill in that line")
    label, mask = (folder / row[key] if row.get(key) else None for key in ("label", "brain_mask"))
    return Case(name, patient, sources, label, mask)
