"""Checks of grey values: finite, and not all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation


def check_finite(case: CaseObservation) -> Iterator[Finding]:
    """An image holds NaN or Inf."""
    for name, volume in case.images.items():
        wrong = volume.array.size - int(np.isfinite(volume.array).sum())
        if wrong:
            nan = int(np.isnan(volume.array).sum())
            found = f"{name}: {nan:,} voxels are NaN and {wrong - nan:,} are Inf, of {volume.array.size:,}"
            fix = "find out where they come from; if they stand for the background, replace them with 0"
            yield Finding(Level.ERROR, case.case.name, "nan_inf", found, fix)


def check_constant(case: CaseObservation) -> Iterator[Finding]:
    """An image is empty, or has one value everywhere."""
    for name, volume in case.images.items():
        low, high = float(volume.array.min()), float(volume.array.max())
        if low == high:
            found = f"{name}: every voxel is {low:g}"
            yield Finding(Level.ERROR, case.case.name, "constant_image", found, "export the image again")


def check_brain_mask(case: CaseObservation) -> Iterator[Finding]:
    """A brain mask covers everything or nothing, or has more values than 0 and one other."""
    if fault := case.faults.get("brain mask"):
        yield Finding(Level.ERROR, case.case.name, "brain_mask", fault.found, fault.fix)
    stored = case.values(case.case.brain_mask)
    if case.brain_mask is None or stored is None:
        return
    values = np.unique(stored.array)
    if len(values) > 2 or values[0] != 0:
        found = f"brain mask: {len(values):,} values from {values[0]:g} to {values[-1]:g}; all above 0.5 count as brain"
        fix = "no action is needed if that is intended"
        yield Finding(Level.WARNING, case.case.name, "brain_mask", found, fix)
