"""The result tables of a study: one row per case and label, and their summary per arm and size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from pipeline.evaluation.case_row import METRICS as METRICS
from pipeline.evaluation.case_row import CaseRow as CaseRow
from pipeline.evaluation.csv_rows import write_rows
from pipeline.evaluation.statistics import (
    TOO_FEW,
    Interval,
    Resamples,
    Values,
    crossed_interval,
    grouped_means,
    measured_patients,
    why_no_interval,
)
from pipeline.evaluation.worst_patients import patients_in_worst_tenth, worst_tenth


@dataclass(frozen=True)
class SummaryRow:
    """Mean of one metric over the test patients, with its bootstrap percentile interval.

    Attributes:
        arm: preset name.
        n: number of target patients learned from.
        metric: name of the metric; with several labels also `metric[label]` beside the mean over labels.
        mean: over patients (cases of a patient and labels of a case averaged first) and repeats.
        ci_low: lower end of the 95 % interval over patients × repeats; NaN where `no_interval` has a reason.
        ci_high: upper end.
        cases: number of test cases with a defined value.
        patients: number of test patients with one; 0 in tables of earlier versions, which do not tell.
    """

    arm: str
    n: int
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    cases: int
    patients: int = 0

    @property
    def no_interval(self) -> str | None:
        """Why the row has no interval; None where it has one."""
        patients = self.patients or self.cases
        reason = why_no_interval(patients)
        if reason is None and self.metric.startswith(WORST_TENTH):
            tail = patients_in_worst_tenth(patients)
            if why_no_interval(tail):
                reason = f"the worst tenth is {tail} of {patients} test patients, {TOO_FEW}"
        if reason is None and math.isfinite(self.mean) and not self.ci_low < self.ci_high:
            # All resamples have one mean; an interval without width would promise certainty.
            reason = "all test patients have the same value"
        return reason

    def __post_init__(self) -> None:
        # Whoever makes or reads a row: what `no_interval` has a reason against is no interval.
        if self.no_interval:
            object.__setattr__(self, "ci_low", math.nan)
            object.__setattr__(self, "ci_high", math.nan)


WORST_TENTH = "dice_worst_tenth"
"""Name in the summary of the mean Dice over the worst tenth of patients."""


class Measurement(Protocol):
    """What a row has to say for itself to be averaged: which trained arm, which case, which label."""

    @property
    def arm(self) -> str:
        """Name of the arm."""

    @property
    def n(self) -> int:
        """Number of target patients."""

    @property
    def repeat(self) -> int:
        """Which repeat."""

    @property
    def case(self) -> str:
        """Test case."""

    @property
    def patient(self) -> str:
        """Whose case it is."""

    @property
    def label(self) -> str:
        """Name of the structure."""


RowT = TypeVar("RowT", bound=Measurement)
KeyT = TypeVar("KeyT", bound=tuple[Any, ...])


def write_cases_csv(rows: Iterable[CaseRow], path: Path) -> None:
    """Writes `cases.csv` atomically, sorted, floats in full precision and NaN as an empty field."""
    write_rows(path, CaseRow, sorted_rows(rows))


def sorted_rows(rows: Iterable[RowT]) -> list[RowT]:
    """Sorts rows as the tables list them, whatever order they were measured in."""
    return sorted(rows, key=lambda r: (r.n, r.arm, r.repeat, r.patient, r.case, r.label))


@dataclass(frozen=True)
class PatientTable:
    """One metric at one size, by arm, patient and repeat; the form that every statistic starts from.

    Attributes:
        arms: `[A]` names in the order of first appearance in the rows.
        patients: `[P]` sorted; all patients of the study, so that draws are shared between sizes and arms.
        repeats: `[R]` sorted.
        values: `[A, P, R]`, labels of a case averaged, then cases of a patient; NaN where nothing was measured.
        cases: `[A]` number of distinct cases with a defined value.
    """

    arms: tuple[str, ...]
    patients: tuple[str, ...]
    repeats: tuple[int, ...]
    values: Values
    cases: tuple[int, ...]

    def of(self, arm: str) -> Values:
        """Returns the `[P, R]` values of one arm."""
        return self.values[self.arms.index(arm)]

    def means(self) -> dict[str, float]:
        """Arm → mean over patients and repeats; NaN where nothing was measured."""
        found = {}
        for arm, values in zip(self.arms, self.values, strict=True):
            measured = values[np.isfinite(values)]
            found[arm] = float(measured.mean()) if len(measured) else math.nan
        return found

    def patients_measured(self) -> dict[str, int]:
        """Arm → patients measured in any repeat."""
        return {arm: measured_patients(values) for arm, values in zip(self.arms, self.values, strict=True)}

    def patient_means(self, arm: str) -> Values:
        """Returns `[P]` means over repeats, NaN for a patient never measured."""
        values = self.of(arm)
        rows = np.repeat(np.arange(len(values)), values.shape[1])
        return grouped_means(values.ravel(), rows, len(values))


def compared_sizes(rows: Sequence[RowT] | Sequence[SummaryRow]) -> tuple[int, ...]:
    """Numbers of target patients at which arms can be compared: with several arms, or all where there is one alone."""
    arms_at: dict[int, set[str]] = {}
    for row in rows:
        arms_at.setdefault(row.n, set()).add(row.arm)
    alone = len(set().union(*arms_at.values())) == 1
    return tuple(n for n, arms in sorted(arms_at.items()) if len(arms) > 1 or alone)


@dataclass
class StudyRows(Generic[RowT]):
    """The rows of a study, with the patients, sizes and labels they span.

    Attributes:
        rows: of `cases.csv`, or of another table with a row for each arm, size, repeat, case and label.
        every_size: numbers of target patients of any arm.
        sizes: those at which arms can be compared; `random` may have more of its own.
        folds: of the cross-validation that the rows are of; `None` for a study with test patients.
    """

    rows: list[RowT]
    folds: int | None = None
    arms: tuple[str, ...] = field(init=False)
    every_size: tuple[int, ...] = field(init=False)
    sizes: tuple[int, ...] = field(init=False)
    labels: tuple[str, ...] = field(init=False)
    patients: tuple[str, ...] = field(init=False)
    repeats: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = tuple(dict.fromkeys(r.arm for r in self.rows))
        self.every_size = tuple(sorted({r.n for r in self.rows}))
        self.sizes = compared_sizes(self.rows)
        self.labels = tuple(sorted({r.label for r in self.rows}))
        self.patients = tuple(sorted({r.patient for r in self.rows}))
        self.repeats = tuple(sorted({r.repeat for r in self.rows}))

    def metrics(self, known: Iterable[str] = METRICS) -> list[str]:
        """Returns those of the known metrics that have at least one defined value."""
        return [m for m in known if any(math.isfinite(getattr(r, m)) for r in self.rows)]

    def draws(self, *, seed: int, resamples: int) -> Resamples:
        """Draws the patients and repeats that all arms, sizes and metrics of the study share."""
        size = (len(self.patients), len(self.repeats))
        return Resamples.draw(*size, resamples=resamples, seed=seed, folds=self.folds)

    def table(self, metric: str, n: int, label: str | None = None) -> PatientTable:
        """Gathers one metric at one size.

        Args:
            metric: name of a field of the rows.
            n: number of target patients.
            label: one label alone; None averages the labels of each case.

        Returns:
            The values by arm, patient and repeat.
        """
        rows = [r for r in self.rows if r.n == n and label in (None, r.label)]
        defined = [r for r in rows if math.isfinite(getattr(r, metric))]
        # Labels of a case first, then cases of a patient: a case with an undefined label still weighs as one case.
        of_labels = np.array([getattr(r, metric) for r in defined], dtype=np.float64)
        cases, of_cases = _means_by([(r.arm, r.patient, r.repeat, r.case) for r in defined], of_labels)
        cells, of_patients = _means_by([(arm, patient, repeat) for arm, patient, repeat, _ in cases], of_cases)
        measured = {r.arm for r in rows}
        arms = tuple(arm for arm in self.arms if arm in measured)
        values = np.full((len(arms), len(self.patients), len(self.repeats)), np.nan)
        for (arm, patient, repeat), mean in zip(cells, of_patients, strict=True):
            values[arms.index(arm), self.patients.index(patient), self.repeats.index(repeat)] = mean
        counts = Counter(arm for arm, _ in {(arm, case) for arm, _, _, case in cases})
        return PatientTable(arms, self.patients, self.repeats, values, tuple(counts[arm] for arm in arms))


def _means_by(keys: Sequence[KeyT], values: Values) -> tuple[list[KeyT], Values]:
    """Averages values with the same key.

    Returns:
        The keys, sorted, and the mean of each.
    """
    distinct = sorted(set(keys))
    place = {key: i for i, key in enumerate(distinct)}
    return distinct, grouped_means(values, np.array([place[key] for key in keys], dtype=np.intp), len(distinct))


def summarise(study: StudyRows[RowT], seed: int, resamples: int, metrics: Iterable[str] = METRICS) -> list[SummaryRow]:
    """Averages every measured metric per arm and size, with intervals over patients × repeats.

    Args:
        study: all rows.
        seed: of the study; the draws come from its own stream.
        resamples: number of bootstrap resamples, the same draws for every arm, size and metric.
        metrics: fields of the rows to average, where they were measured.

    Returns:
        One row per arm, size and metric; with several labels also one per label, as `metric[label]`. Dice has a second
        row, `dice_worst_tenth`: its mean over the worst tenth of patients.
    """
    if not study.rows:
        return []
    draws = study.draws(seed=seed, resamples=resamples)
    labels: list[str | None] = [None, *study.labels] if len(study.labels) > 1 else [None]
    summary = []
    for n in study.every_size:
        for metric in study.metrics(metrics):
            for label in labels:
                table = study.table(metric, n, label)
                part = "" if label is None else f"[{label}]"
                for arm, cases in zip(table.arms, table.cases, strict=True):
                    values = table.of(arm)
                    about = (cases, measured_patients(values))
                    summary.append(summary_row(arm, n, metric + part, crossed_interval(values, draws), *about))
                    if metric == "dice":
                        worst = worst_tenth(values, draws)
                        summary.append(summary_row(arm, n, f"{WORST_TENTH}{part}", worst, *about))
    order = list(dict.fromkeys(r.metric for r in summary))
    # Not between Dice and IoU: readers look for the overlaps first.
    order.sort(key=lambda metric: metric.startswith(WORST_TENTH))
    return sorted(summary, key=lambda r: (r.n, study.arms.index(r.arm), order.index(r.metric)))


def summary_row(arm: str, n: int, metric: str, interval: Interval, cases: int, patients: int) -> SummaryRow:
    """Makes a row of an interval."""
    return SummaryRow(arm, n, metric, interval.mean, interval.low, interval.high, cases, patients)
