"""Checks of label maps: whole, declared numbers, and something labelled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation

_SHOWN = 8
_LARGEST_LABEL = np.iinfo(np.int16).max


def _list(values: np.ndarray | list[int]) -> str:
    text = ", ".join(f"{value:g}" for value in values[:_SHOWN])
    return text + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")


def check_label_values(case: CaseObservation) -> Iterator[Finding]:
    """Label values are not whole numbers, or are not declared by the dataset."""
    if case.label is None:
        return
    values = np.unique(case.label.array)
    values = values[np.isfinite(values)]
    broken = values[(np.rint(values) != values)]
    if len(broken):
        found = f"label: values that are not whole numbers: {_list(broken)}"
        fix = "resample labels with nearest neighbours, or round them if they are off by rounding"
        yield Finding(Level.ERROR, case.case.name, "label_integers", found, fix)
    whole = values[np.rint(values) == values]
    undeclared = whole[~np.isin(whole, case.declared)]
    if len(undeclared):
        declared = _list(list(case.declared))
        found = f"label: values that are not declared: {_list(undeclared)} (declared: {declared})"
        out_of_range = (undeclared < 0).any() or (undeclared > _LARGEST_LABEL).any()
        fix = (
            f"renumber the labels from 0 to {_LARGEST_LABEL}" if out_of_range else "declare them or renumber the label"
        )
        yield Finding(Level.ERROR, case.case.name, "label_values", found, fix)


def check_empty_label(case: CaseObservation) -> Iterator[Finding]:
    """Nothing, or nothing of the foreground that the study uses, is labelled."""
    if case.label is None:
        return
    if not case.label.array.any():
        found = "label: every voxel is background"
    elif case.foreground is not None and not np.isin(case.label.array, case.foreground).any():
        found = f"label: no voxel has a value of the foreground ({_list(list(case.foreground))})"
    else:
        return
    fix = "if the structure is truly absent, nothing; else find the right label"
    yield Finding(Level.WARNING, case.case.name, "empty_label", found, fix)
