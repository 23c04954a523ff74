"""The result tables of a study: one row per case and label, and their summary per arm and size."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from data.errors import WorkspaceError
from pipeline.evaluation.metrics import EmptyMask
from pipeline.evaluation.statistics import Interval, Resamples, Values, crossed_interval, grouped_means
from pipeline.storage.atomic import write_text


@dataclass(frozen=True)
class CaseRow:
    """What one trained arm reached on one label of one test case; NaN where the empty-mask policy leaves it out.

    Attributes:
        arm: preset name of the arm.
        n: number of target patients it learned from.
        repeat: which draw of patients and seed.
        case: test case.
        patient: whose case it is; averages and intervals are over patients.
        label: name of the structure.
        dice: Dice similarity coefficient.
        iou: intersection over union.
        tp: voxels in prediction and reference.
        fp: voxels in the prediction alone.
        fn: voxels in the reference alone.
        empty: which mask was empty, so that a reader can count what the policy touched.
        hd95: 95th percentile Hausdorff distance in mm.
        average_surface_distance: symmetric, in mm.
        surface_dice: normalised surface Dice at the study's tolerance.
        reference_ml: volume of the reference in ml.
        predicted_ml: volume of the prediction in ml.
    """

    arm: str
    n: int
    repeat: int
    case: str
    patient: str
    label: str
    dice: float
    iou: float
    tp: int = 0
    fp: int = 0
    fn: int = 0
    empty: str = EmptyMask.NEITHER.value
    hd95: float = math.nan
    average_surface_distance: float = math.nan
    surface_dice: float = math.nan
    reference_ml: float = math.nan
    predicted_ml: float = math.nan


@dataclass(frozen=True)
class SummaryRow:
    """Mean of one metric over the test patients, with its bootstrap percentile interval.

    Attributes:
        arm: preset name.
        n: number of target patients learned from.
        metric: name of the metric; with several labels also `metric[label]` beside the mean over labels.
        mean: over patients (cases of a patient and labels of a case averaged first) and repeats.
        ci_low: lower end of the 95 % interval over patients × repeats.
        ci_high: upper end.
        cases: number of test cases with a defined value.
    """

    arm: str
    n: int
    metric: str
    mean: float
    ci_low: float
    ci_high: float
    cases: int


METRICS = ("dice", "iou", "hd95", "average_surface_distance", "surface_dice")
"""Metrics that are summarised, where they were measured."""
CASE_COLUMNS = tuple(f.name for f in fields(CaseRow))
SUMMARY_COLUMNS = tuple(f.name for f in fields(SummaryRow))
_TYPES = {f.name: {"str": str, "int": int, "float": float}[str(f.type)] for f in fields(CaseRow)}


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(float(value))
    return str(value)


def _csv_text(columns: Sequence[str], rows: Iterable[object]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_text(getattr(row, name)) for name in columns] for row in rows)
    return stream.getvalue()


def write_cases_csv(rows: Iterable[CaseRow], path: Path) -> None:
    """Writes `cases.csv` atomically, sorted, floats in full precision and NaN as an empty field."""
    ordered = sorted(rows, key=lambda r: (r.n, r.arm, r.repeat, r.patient, r.case, r.label))
    write_text(path, _csv_text(CASE_COLUMNS, ordered))


def write_summary_csv(rows: Iterable[SummaryRow], path: Path) -> None:
    """Writes `summary.csv` atomically, in the order given."""
    write_text(path, _csv_text(SUMMARY_COLUMNS, rows))


def read_cases_csv(path: Path) -> list[CaseRow]:
    """Reads `cases.csv`; columns it does not know are ignored, and optional ones may be missing.

    Args:
        path: the file.

    Returns:
        The rows in the order of the file.

    Raises:
        WorkspaceError: the file is missing, lacks a column, or holds a value of the wrong type.
    """
    mend = "run the evaluate stage again"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path}: cannot be read ({error})", expected="a table of cases", mend=mend) from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in CASE_COLUMNS[:8] if name not in (reader.fieldnames or [])]
    if missing:
        raise WorkspaceError(f"{path}: no column {', '.join(missing)}", expected=",".join(CASE_COLUMNS[:8]), mend=mend)
    return [_case_row(path, reader.line_num, record, mend) for record in reader]


def _case_row(path: Path, line: int, record: dict[str, str], mend: str) -> CaseRow:
    values: dict[str, object] = {}
    for name, kind in _TYPES.items():
        cell = record.get(name)
        if cell is None:
            if name in CASE_COLUMNS[:8]:
                raise WorkspaceError(f"{path}: line {line} ends before {name}", expected="whole rows", mend=mend)
            continue
        try:
            values[name] = math.nan if kind is float and cell == "" else kind(cell)
        except ValueError as error:
            expected = {int: "a whole number", float: "a number or nothing"}.get(kind, "text")
            raise WorkspaceError(f"{path}: line {line}, {name} is {cell!r}", expected=expected, mend=mend) from error
    return CaseRow(**values)  # type: ignore[arg-type]


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

    def patient_means(self, arm: str) -> Values:
        """Returns `[P]` means over repeats, NaN for a patient never measured."""
        values = self.of(arm)
        rows = np.repeat(np.arange(len(values)), values.shape[1])
        return grouped_means(values.ravel(), rows, len(values))


@dataclass
class StudyRows:
    """The rows of a study, with the patients, sizes and labels they span.

    Attributes:
        rows: of `cases.csv`.
    """

    rows: list[CaseRow]
    arms: tuple[str, ...] = field(init=False)
    sizes: tuple[int, ...] = field(init=False)
    labels: tuple[str, ...] = field(init=False)
    patients: tuple[str, ...] = field(init=False)
    repeats: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = tuple(dict.fromkeys(r.arm for r in self.rows))
        self.sizes = tuple(sorted({r.n for r in self.rows}))
        self.labels = tuple(sorted({r.label for r in self.rows}))
        self.patients = tuple(sorted({r.patient for r in self.rows}))
        self.repeats = tuple(sorted({r.repeat for r in self.rows}))

    def metrics(self) -> list[str]:
        """Returns the metrics that have at least one defined value."""
        return [m for m in METRICS if any(math.isfinite(getattr(r, m)) for r in self.rows)]

    def draws(self, *, seed: int, resamples: int) -> Resamples:
        """Draws the patients and repeats that all arms, sizes and metrics of the study share."""
        return Resamples.draw(len(self.patients), len(self.repeats), resamples=resamples, seed=seed)

    def table(self, metric: str, n: int, label: str | None = None) -> PatientTable:
        """Gathers one metric at one size.

        Args:
            metric: name of a field of `CaseRow`.
            n: number of target patients.
            label: one label alone; None averages the labels of each case.

        Returns:
            The values by arm, patient and repeat.
        """
        rows = [r for r in self.rows if r.n == n and (label is None or r.label == label)]
        arms = tuple(a for a in self.arms if any(r.arm == a for r in rows))
        shape = (len(arms), len(self.patients), len(self.repeats))
        defined = [r for r in rows if math.isfinite(getattr(r, metric))]
        # Labels of a case first, then cases of a patient: a case with an undefined label still weighs as one case.
        keys = sorted({(r.arm, r.patient, r.repeat, r.case) for r in defined})
        place = {key: i for i, key in enumerate(keys)}
        owner = np.array([place[r.arm, r.patient, r.repeat, r.case] for r in defined], dtype=np.intp)
        values = np.array([getattr(r, metric) for r in defined], dtype=np.float64)
        arm_at, patient_at, repeat_at = (
            {name: i for i, name in enumerate(names)} for names in (arms, self.patients, self.repeats)
        )
        cell = np.array(
            [np.ravel_multi_index((arm_at[a], patient_at[p], repeat_at[r]), shape) for a, p, r, _ in keys],
            dtype=np.intp,
        )
        by_cell = grouped_means(grouped_means(values, owner, len(keys)), cell, math.prod(shape))
        cases = tuple(len({r.case for r in defined if r.arm == a}) for a in arms)
        return PatientTable(arms, self.patients, self.repeats, by_cell.reshape(shape), cases)


def summarise(rows: Sequence[CaseRow], seed: int, resamples: int = 2000) -> list[SummaryRow]:
    """Averages every measured metric per arm and size, with intervals over patients × repeats.

    Args:
        rows: of the whole study.
        seed: of the study; the draws come from its own stream.
        resamples: number of bootstrap resamples, the same draws for every arm, size and metric.

    Returns:
        One row per arm, size and metric; with several labels also one per label, as `metric[label]`.
    """
    study = StudyRows(list(rows))
    if not study.rows:
        return []
    draws = study.draws(seed=seed, resamples=resamples)
    labels: list[str | None] = [None, *study.labels] if len(study.labels) > 1 else [None]
    summary = []
    for n in study.sizes:
        for metric in study.metrics():
            for label in labels:
                table = study.table(metric, n, label)
                name = metric if label is None else f"{metric}[{label}]"
                for arm, cases in zip(table.arms, table.cases, strict=True):
                    interval = crossed_interval(table.of(arm), draws)
                    summary.append(_summary_row(arm, n, name, interval, cases))
    return sorted(summary, key=lambda r: (r.n, study.arms.index(r.arm)))


def _summary_row(arm: str, n: int, metric: str, interval: Interval, cases: int) -> SummaryRow:
    return SummaryRow(arm, n, metric, interval.mean, interval.low, interval.high, cases)


def read_summary_csv(path: Path) -> list[SummaryRow]:
    """Reads `summary.csv`.

    Raises:
        WorkspaceError: the file is missing, lacks a column, or holds a value of the wrong type.
    """
    mend = "run the evaluate stage again"
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
        number = {"ci_low", "ci_high", "mean"}
        return [
            SummaryRow(
                arm=record["arm"],
                n=int(record["n"]),
                metric=record["metric"],
                cases=int(record["cases"]),
                **{k: float(record[k]) if record[k] else math.nan for k in number},
            )
            for record in reader
        ]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"{path}: cannot be read ({error!r})", expected=",".join(SUMMARY_COLUMNS), mend=mend
        ) from error
