"""Checks of the cohort: missing channels and labels, unusual spacings, patients, and the sides of a split."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from data.checks.finding import Finding, Level
from data.checks.report import Presence
from data.checks.summary import CaseSummary
from data.dataset import Dataset

SPACING = "spacing"
"""Name of the check of spacings in findings."""

# A spacing is unusual if it differs from the median by half and by 4 robust standard deviations.
_UNUSUAL_FACTOR = 1.5
_UNUSUAL_DEVIATIONS = 4.0
_SMALLEST_COHORT = 4
_SHOWN = 5


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def check_spacing(cases: Sequence[CaseSummary], beside: Sequence[CaseSummary] | None = None) -> Iterator[Finding]:
    """A case has a spacing far from that of the cohort.

    Args:
        cases: the cohort.
        beside: cases that are compared with the cohort instead of its own, be it ever so small.
    """
    known = [(case.name, case.spacing) for case in cases if case.spacing is not None]
    if len(known) < (_SMALLEST_COHORT if beside is None else 1):
        return
    logs = np.log(np.array([spacing for _, spacing in known]))
    median = np.median(logs, axis=0)
    deviation = 1.4826 * np.median(np.abs(logs - median), axis=0)
    allowed = np.maximum(np.log(_UNUSUAL_FACTOR), _UNUSUAL_DEVIATIONS * deviation)
    judged = known if beside is None else [(case.name, case.spacing) for case in beside if case.spacing is not None]
    for name, spacing in judged:
        if (np.abs(np.log(spacing) - median) > allowed).any():
            own, usual = (" × ".join(f"{s:.3g}" for s in triple) for triple in (spacing, np.exp(median)))
            found = f"spacing {own} mm (right, anterior, superior), median of the cohort {usual} mm"
            fix = "check the header, and that the case was acquired with the same protocol"
            yield Finding(Level.WARNING, name, SPACING, found, fix)


def check_completeness(cases: Sequence[CaseSummary], required: bool) -> Iterator[Finding]:
    """A case lacks a channel that others have, or a label.

    Args:
        cases: the cohort.
        required: whether the channels were requested, so that a case without one cannot be used.
    """
    for case in cases:
        for channel, presence in case.presence.items():
            if presence is Presence.ABSENT and channel not in ("label", "brain_mask"):
                fix = "add the file, leave the case out, or use channels that all cases have"
                level = Level.ERROR if required else Level.WARNING
                yield Finding(level, case.name, "missing_channel", f"{channel} is missing", fix)
    unlabelled = [case.name for case in cases if case.presence.get("label") is Presence.ABSENT]
    if unlabelled:
        found = f"{len(unlabelled)} of {len(cases)} cases have no label: {_some(unlabelled)}"
        fix = "add the labels; without them these cases can be predicted but not learned from"
        yield Finding(Level.WARNING, None, "missing_label", found, fix)


def check_patients(dataset: Dataset) -> Iterator[Finding]:
    """Neither the layout nor patients.csv says which cases are scans of one patient."""
    if not dataset.has_patients:
        found = f"nothing groups the cases into patients: each of the {len(dataset.cases)} cases counts as one patient"
        fix = "if some patients have several scans, add patients.csv with the columns case,patient"
        yield Finding(Level.INFO, None, "patients", found, fix)


def check_names(dataset: Dataset, channels: Collection[str], foreground: Collection[int] | None) -> Iterator[Finding]:
    """Channels or foreground values are requested that the dataset does not have."""
    for channel in channels:
        if channel not in dataset.channel_names:
            found = f"there is no channel {channel!r}; the dataset has {', '.join(dataset.channel_names)}"
            yield Finding(Level.ERROR, None, "channels", found, "correct the channels, or the dataset's names")
    for value in foreground or ():
        if value == 0 or value not in dataset.label_names:
            declared = ", ".join(f"{v} ({name})" for v, name in dataset.label_names.items() if v)
            found = f"the foreground value {value} is not declared; the dataset has {declared}"
            yield Finding(Level.ERROR, None, "foreground", found, "correct the foreground, or declare the label")


def check_split(dataset: Dataset, splits: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """A patient is on two sides of a split, or a side lists a case that does not exist."""
    patient_of = {case.name: case.patient for case in dataset.cases}
    seen: dict[str, tuple[str, str]] = {}
    for side, names in splits.items():
        for name in sorted(names):
            if name not in patient_of:
                found = f"the side {side!r} of the split lists a case that does not exist"
                yield Finding(Level.ERROR, name, "split", found, "correct the name")
                continue
            other_side, other_name = seen.setdefault(patient_of[name], (side, name))
            if other_side != side:
                found = (
                    f"patient {patient_of[name]!r} is on both sides of the split: {other_name!r} is in {other_side!r}, "
                    f"{name!r} in {side!r}"
                )
                yield Finding(Level.ERROR, name, "split_patient", found, "move all cases of the patient to one side")
