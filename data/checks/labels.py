"""Checks of label maps: whole and declared numbers, and at least one labelled voxel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.label_map import shown_values


def check_label_values(case: CaseObservation) -> Iterator[Finding]:
    """Label values are not whole numbers, or are not declared by the dataset."""
    if fault := case.faults.get("label"):
        yield Finding(Level.ERROR, case.case.name, "label_values", fault.found, fault.fix)
    if case.label is None:
        return
    values = np.unique(case.label.array)
    undeclared = values[~np.isin(values, case.declared)]
    if len(undeclared):
        declared = shown_values(np.array(case.declared))
        found = f"label: values that are not declared: {shown_values(undeclared)} (declared: {declared})"
        yield Finding(Level.ERROR, case.case.name, "label_values", found, "declare them or renumber the label")


def check_empty_label(case: CaseObservation) -> Iterator[Finding]:
    """No voxel is labelled, or none with the foreground that the study uses."""
    if case.label is None:
        return
    if not case.label.array.any():
        found = "label: every voxel is background"
    elif case.foreground is not None and not np.isin(case.label.array, case.foreground).any():
        found = f"label: no voxel has a value of the foreground ({shown_values(np.array(case.foreground))})"
    else:
        return
    fix = "find the right label, unless the structure is truly absent"
    yield Finding(Level.WARNING, case.case.name, "empty_label", found, fix)
