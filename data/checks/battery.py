"""All checks over a dataset: per case in parallel, then over the cohort."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from joblib.externals.loky.process_executor import TerminatedWorkerError

from data.case import Case
from data.checks import stripped_head, value_range
from data.checks.cohort import SPACING, check_completeness, check_names, check_patients, check_spacing, check_split
from data.checks.duplicates import DUPLICATE_IMAGE, NEAR_DUPLICATE, check_duplicates, check_near_duplicates
from data.checks.files import (
    check_dimensions,
    check_header,
    check_ignored_bytes,
    check_missing_file,
    check_unreadable,
)
from data.checks.finding import Finding, Level, as_error
from data.checks.geometry import (
    check_affine,
    check_channel_grids,
    check_forms,
    check_label_grid,
    check_no_form,
    check_spacing_range,
    check_units,
)
from data.checks.intensities import check_brain_mask, check_constant, check_finite
from data.checks.interrupted_copy import check_interrupted_copy
from data.checks.labels import check_annotation, check_empty_label, check_label_values
from data.checks.mirroring import check_mirrored
from data.checks.observation import CaseObservation, observe_case
from data.checks.report import Presence, Report, ordered
from data.checks.stripped_head import check_stripped_head
from data.checks.summary import CaseSummary, presence_of, summarise
from data.checks.value_range import check_value_range, check_value_ranges
from data.dataset import Dataset
from data.errors import GraftError
from data.modality import Modality
from data.parallel import in_workers

CaseCheck = Callable[[CaseObservation], Iterator[Finding]]
Progress = Callable[[int, int], None]
T = TypeVar("T")

CASE_CHECKS: tuple[CaseCheck, ...] = (
    check_missing_file,
    check_unreadable,
    check_header,
    check_ignored_bytes,
    check_interrupted_copy,
    check_dimensions,
    check_affine,
    check_forms,
    check_no_form,
    check_units,
    check_spacing_range,
    check_label_grid,
    check_channel_grids,
    check_finite,
    check_constant,
    check_brain_mask,
    check_label_values,
    check_empty_label,
    check_annotation,
    check_mirrored,
    check_value_range,
    check_stripped_head,
)

CONTENT_CHECKS = (value_range.CHECK, stripped_head.CHECK)
"""Names of the checks that question the content of a scan: such a case is processed and marked as suspect."""

ODD_BESIDE = (SPACING, DUPLICATE_IMAGE)
"""Names of the checks of a cohort whose findings are errors of a case that stands beside it."""

_log = logging.getLogger(__name__)


def _guarded(case: str | None, name: str, run: Callable[[], T], otherwise: T) -> tuple[T, list[Finding]]:
    """Runs a part of the battery; if it raises, that is a finding about Graft, not about the data."""
    try:
        return run(), []
    except Exception as error:
        found = f"internal error in check {name} ({type(error).__name__}: {error})"
        fix = "the other checks were still run; please report this, with the output of --debug"
        return otherwise, [Finding(Level.WARNING, case, "internal_error", found, fix, traceback.format_exc())]


def _findings_of(case: str | None, check: Callable[..., Iterator[Finding]], *arguments: Any) -> list[Finding]:
    name = check.__name__.removeprefix("check_")
    none: list[Finding] = []
    findings, failure = _guarded(case, name, lambda: list(check(*arguments)), none)
    return findings + failure


def case_findings(case: CaseObservation) -> list[Finding]:
    """Returns the findings of all checks of a case."""
    return [finding for check in CASE_CHECKS for finding in _findings_of(case.case.name, check, case)]


def check_case(
    case: Case,
    channels: tuple[str, ...],
    declared: tuple[int, ...],
    foreground: tuple[int, ...] | None = None,
    modality: Modality | None = None,
    ignored: tuple[int, ...] = (),
) -> tuple[CaseSummary, tuple[Finding, ...]]:
    """Runs all checks of one case; each file is read once, and no fault of a file raises."""
    try:
        observation = observe_case(case, channels, declared, foreground, modality, ignored)
    except (GraftError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        return _failed(case, channels, f"cannot be read ({type(error).__name__}: {error})")
    findings = case_findings(observation)
    bare = CaseSummary(case.name, case.patient, presence_of(observation, channels))
    summary, failure = _guarded(case.name, "summary", lambda: summarise(observation, channels), bare)
    return summary, (*findings, *failure)


def _failed(case: Case, channels: tuple[str, ...], found: str) -> tuple[CaseSummary, tuple[Finding, ...]]:
    finding = Finding(
        Level.ERROR, case.name, "unreadable_file", found, "check its files, or remove the case from the dataset"
    )
    presence = dict.fromkeys((*channels, "label", "brain_mask"), Presence.UNREADABLE)
    return CaseSummary(case.name, case.patient, presence), (finding,)


def _check_cases(
    dataset: Dataset,
    channels: tuple[str, ...],
    foreground: tuple[int, ...] | None,
    modality: Modality | None,
    ignored: tuple[int, ...],
    jobs: int,
    progress: Progress | None,
) -> list[tuple[CaseSummary, tuple[Finding, ...]]]:
    """Checks all cases; a case that kills its worker is checked again alone, and reported if that kills it too."""
    declared = tuple(dataset.label_names)
    results: dict[str, tuple[CaseSummary, tuple[Finding, ...]]] = {}

    def collect(cases: Sequence[Case], workers: int) -> None:
        calls = ((case, channels, declared, foreground, modality, ignored) for case in cases)
        for result in in_workers(check_case, calls, workers):
            results[result[0].name] = result
            _log_traces(result[1])
            if progress is not None:
                progress(len(results), len(dataset.cases))

    try:
        collect(dataset.cases, jobs)
    except TerminatedWorkerError:
        _log.warning(
            "a worker was killed; the %d remaining cases are checked one by one", len(dataset.cases) - len(results)
        )
        for case in dataset.cases:
            if case.name in results:
                continue
            try:
                collect([case], 2)  # In a worker of its own, because this process has to survive.
            except TerminatedWorkerError:
                results[case.name] = _failed(case, channels, "its check was killed, most likely because memory ran out")
    return [results[case.name] for case in dataset.cases]


def _log_traces(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.trace:
            _log.debug("%s: %s\n%s", finding.case or "dataset", finding.found, finding.trace)


def _cohort_findings(
    dataset: Dataset,
    summaries: Sequence[CaseSummary],
    channels: Sequence[str],
    foreground: Sequence[int] | None,
    splits: Mapping[str, Collection[str]],
    modality: Modality | None,
    required: bool,
) -> list[Finding]:
    """All checks of the cohort."""
    found: list[Finding] = []
    for check, arguments in (
        (check_names, (dataset, channels, foreground)),
        (check_patients, (dataset,)),
        (check_completeness, (summaries, required)),
        (check_spacing, (summaries,)),
        (check_value_ranges, (summaries, modality)),
        (check_duplicates, (summaries,)),
        (check_near_duplicates, (summaries, splits)),
        (check_split, (dataset, splits)),
    ):
        found += _findings_of(None, check, *arguments)
    return found


def _beside(
    dataset: Dataset,
    summaries: Sequence[CaseSummary],
    beside: Collection[str],
    splits: Mapping[str, Collection[str]],
    modality: Modality | None,
    required: bool,
) -> list[Finding]:
    """What the cohort says of the cases that stand beside it."""
    cohort = [own for own in summaries if own.name not in beside]
    added = [own for own in summaries if own.name in beside]
    found: list[Finding] = []
    for check, arguments in (
        (check_completeness, (added, required)),
        (check_spacing, (cohort, added)),
        (check_value_ranges, ([*cohort, *added], modality)),
        # In this order, so that of two equal images the one beside the others is the culprit.
        (check_duplicates, ([*cohort, *added],)),
        (check_near_duplicates, ([*cohort, *added], splits)),
        (check_split, (dataset, splits)),
    ):
        found += _findings_of(None, check, *arguments)
    # A pair stands under the name that comes first.
    return [as_error(own, ODD_BESIDE) for own in found if own.case in beside or own.check == NEAR_DUPLICATE]


def check_dataset(
    dataset: Dataset,
    channels: Sequence[str] | None = None,
    foreground: Sequence[int] | None = None,
    splits: Mapping[str, Collection[str]] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    modality: Modality | None = None,
    ignored: Collection[int] = (),
    beside: Collection[str] = (),
) -> Report:
    """Checks all cases of a dataset, then the cohort.

    Args:
        dataset: what a layout read.
        channels: channels that will be used; a case without one of them is an error. `None`: all channels, and a case
            without one is a warning.
        foreground: label values that will be used; a case with none of them is a warning.
        splits: side of a split → names of its cases; a patient on two sides is an error.
        jobs: worker processes.
        progress: called with the number of checked cases and of all cases.
        modality: of the scans, where it is known; otherwise their values are compared with each other.
        ignored: label values of voxels without annotation, beside those that the dataset declares.
        beside: names of cases that stand beside the others, such as those whose labels nobody reads: nothing that is
            found about the others depends on them, and what is odd among the others is an error of theirs.

    Returns:
        The findings, and which case has which channels. Results do not depend on `jobs`.
    """
    used = tuple(channels) if channels is not None else dataset.channel_names
    known = tuple(channel for channel in used if channel in dataset.channel_names)
    values = None if foreground is None else tuple(foreground)
    results = _check_cases(
        dataset, known, values, modality, tuple(sorted({*dataset.ignored, *ignored})), jobs, progress
    )
    summaries = [summary for summary, _ in results]
    findings = [*dataset.findings, *(finding for _, of_case in results for finding in of_case)]
    cohort = _cohort_findings(
        replace(dataset, cases=tuple(case for case in dataset.cases if case.name not in beside)),
        [summary for summary in summaries if summary.name not in beside],
        used,
        foreground,
        {side: [name for name in names if name not in beside] for side, names in (splits or {}).items()},
        modality,
        channels is not None,
    )
    if beside:
        findings = [as_error(own, (value_range.CHECK,)) if own.case in beside else own for own in findings]
        more = _beside(dataset, summaries, beside, splits or {}, modality, channels is not None)
        cohort += [own for own in more if own not in cohort]
    _log_traces(cohort)
    findings += cohort
    return Report(
        root=dataset.root,
        layout=dataset.layout,
        patients=len(dataset.by_patient()),
        has_patients=dataset.has_patients,
        findings=ordered(findings),
        table={summary.name: dict(summary.presence) for summary in summaries},
        label_names=dict(dataset.label_names),
    )
