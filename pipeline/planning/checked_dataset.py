"""A dataset whose checks found no error: a plan for scans that cannot be used would help nobody."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from data.case import Case
from data.checks.battery import check_dataset
from data.checks.finding import Finding, Level
from data.dataset import Dataset
from data.modality import Modality
from data.splits import labelled_patients
from pipeline.planning.fingerprint import looked_at
from pipeline.stages.check import refuse


def annotated_cases(dataset: Dataset) -> list[Case]:
    """Cases of the patients that a study can learn from and be tested on, in order of name."""
    names = {case for cases in labelled_patients(dataset).values() for case in cases}
    return [case for case in dataset.cases if case.name in names]


def drawn_values(cases: Sequence[Case]) -> set[int]:
    """Values that occur in the label maps of the cases that a fingerprint looks at.

    Raises:
        DataError: a label cannot be read.
    """
    return {int(value) for case in looked_at(cases) for value in np.unique(case.read_label().array)}


def require_sound(
    dataset: Dataset,
    channels: Sequence[str],
    values: Collection[int],
    modality: Modality,
    jobs: int,
    learned_from: Collection[Case] = (),
    ignored: Collection[int] = (),
) -> list[str]:
    """Carries out the checks of `graft check` on all cases, also those without a label.

    Args:
        dataset: the scans.
        channels: those that are used.
        values: of the structures.
        modality: of the scans.
        jobs: worker processes.
        learned_from: cases that need the structures.
        ignored: values of voxels without annotation, beside those that the dataset declares.

    Returns:
        The warnings in words, one for each kind.

    Raises:
        DataError: a scan cannot be used, two are the same image, or a case that is learned from lacks the structures.
    """
    report = check_dataset(
        dataset,
        channels=channels,
        foreground=sorted(values),
        jobs=jobs,
        modality=modality,
        # What one role ignores may be a structure of the other.
        ignored=set(ignored) - set(values),
    )
    needed = {case.name for case in learned_from}
    empty = [finding for finding in report.findings if finding.check == "empty_label" and finding.case in needed]
    refuse([(dataset.root, finding) for finding in (*report.of_level(Level.ERROR), *empty)])
    return _in_words(dataset, report.of_level(Level.WARNING))


def _in_words(dataset: Dataset, warnings: Sequence[Finding]) -> list[str]:
    """The first warning of each kind, and how many more there are."""
    kinds: dict[str, list[Finding]] = {}
    for finding in warnings:
        kinds.setdefault(finding.check, []).append(finding)
    words = []
    for first, *others in kinds.values():
        where = f"{first.case}: " if first.case else ""
        more = f"; {len(others)} more like it, see `graft check {dataset.root}`" if others else ""
        words.append(f"{where}{first.found} ({first.fix}){more}")
    return words
