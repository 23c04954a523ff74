"""Checks of label maps: whole and declared numbers, at least one labelled voxel, and voxels without annotation."""

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
    undeclared = values[~np.isin(values, (*case.declared, *case.ignored))]
    if len(undeclared):
        declared = shown_values(np.array(case.declared))
        found = f"label: values that are not declared: {shown_values(undeclared)} (declared: {declared})"
        yield Finding(
            Level.ERROR,
            case.case.name,
            "label_values",
            found,
            "declare them (as `ignore` where nobody annotated), renumber them, or name them in `ignore` of the study "
            "(`graft init --ignore`)",
        )


def check_empty_label(case: CaseObservation) -> Iterator[Finding]:
    """No voxel is labelled, or none with the foreground that the study uses."""
    if case.label is None:
        return
    ignored = np.isin(case.label.array, case.ignored)
    if ignored.all():
        return
    if not case.label.array[~ignored].any():
        found = f"label: every {'annotated ' if ignored.any() else ''}voxel is background"
    elif case.foreground is not None and not np.isin(case.label.array, case.foreground).any():
        found = f"label: no voxel has a value of the foreground ({shown_values(np.array(case.foreground))})"
    else:
        return
    fix = "find the right label, unless the structure is truly absent"
    yield Finding(Level.WARNING, case.case.name, "empty_label", found, fix)


def check_annotation(case: CaseObservation) -> Iterator[Finding]:
    """The share of the voxels that are not annotated; with none that is, a case teaches nothing."""
    if case.label is None or not case.ignored:
        return
    ignored = np.isin(case.label.array, case.ignored)
    if ignored.all():
        found = f"label: no voxel is annotated: all are {shown_values(np.unique(case.label.array))}, which is ignored"
        yield Finding(
            Level.ERROR, case.case.name, "annotation", found, "annotate a part of the scan, or remove the label"
        )
    elif ignored.any():
        found = f"label: {100 * ignored.mean():.3g} % of the voxels are not annotated and will be ignored"
        yield Finding(
            Level.INFO, case.case.name, "annotation", found, "nothing to do, if this part was left out on purpose"
        )
