"""`patients.csv`: which cases are scans of one patient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data.case import Case
from data.errors import DataError
from data.input_file import is_there
from data.layouts.csv_table import read_table

PATIENTS_FILE = "patients.csv"


def read_patients(path: Path) -> dict[str, str]:
    """Reads a CSV file with the columns `case` and `patient`.

    Raises:
        DataError: a column is missing, a cell is empty, or a case has two patients.
    """
    table = read_table(path, required=("case", "patient"))
    patients: dict[str, str] = {}
    for number, row in table.rows:
        case, patient = row["case"], row["patient"]
        if not case or not patient:
            raise DataError(
                f"{path}: line {number} has an empty cell", expected="a case and its patient", fix="fill it in"
            )
        if patients.setdefault(case, patient) != patient:
            raise DataError(
                f"{path}: line {number} gives case {case!r} the patient {patient!r}, and an earlier line gives it "
                f"{patients[case]!r}",
                expected="one patient for each case",
                fix="remove one of the lines",
            )
    return patients


def group_cases(root: Path, cases: Sequence[Case], grouped_by_layout: bool = False) -> tuple[tuple[Case, ...], bool]:
    """Gives each case its patient from `patients.csv`, if the folder has that file.

    Returns:
        The cases in order of name, and whether anything groups them into patients.

    Raises:
        DataError: `patients.csv` is broken, lacks a case, or contradicts the layout.
    """
    ordered = sorted(cases, key=lambda case: case.name)
    path = root / PATIENTS_FILE
    if not is_there(path):
        return tuple(ordered), grouped_by_layout
    patients = read_patients(path)
    missing = [case.name for case in ordered if case.name not in patients]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{path}: case {missing[0]!r}{more} is not listed",
            expected=f"all {len(ordered)} cases of the dataset",
            fix="add a line `case,patient` for each, or remove the file if each case is a patient of its own",
        )
    return tuple(dataclasses.replace(case, patient=patients[case.name]) for case in ordered), True
