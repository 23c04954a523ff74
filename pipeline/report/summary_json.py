"""The numbers of a study for machines: `results/summary.json`."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from data.stored_record import StoredRecord
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.leading_arm import LeadingArm
from pipeline.evaluation.statistics import Interval, why_no_interval
from pipeline.evaluation.tables import SummaryRow
from pipeline.execution.provenance_record import Provenance
from pipeline.report.study_files import StudyFiles
from pipeline.report.verdict import told_apart

Number = Annotated[float | None, BeforeValidator(lambda value: None if value is None or math.isnan(value) else value)]
Ends = tuple[float, float] | None


class MetricMean(StoredRecord):
    """The mean of a metric over the test patients: a row of `summary.csv`."""

    arm: str
    n: int
    metric: str
    mean: Number
    interval: Ends
    no_interval: str | None
    """Why there is no interval."""
    cases: int


class ArmDifference(StoredRecord):
    """An arm minus its rival, paired by patient: a row of `comparisons.csv`."""

    arm: str
    rival: str
    n: int
    metric: str
    mean: Number
    interval: Ends
    no_interval: str | None
    """Why there is no interval."""
    patients: int
    p_value: Number
    p_holm: Number


class Standing(StoredRecord):
    """How the leading arm of one size stands to the others."""

    n: int
    arm: str
    ahead_of: tuple[str, ...]
    not_told_from: tuple[str, ...]
    not_compared_with: tuple[str, ...]
    sentence: str


class Bootstrap(StoredRecord):
    """What the intervals are."""

    confidence: float
    resamples: int
    unit: str


class StudySummary(StoredRecord):
    """The whole file; `null` stands for what is undefined, as an empty field does in the tables."""

    FORMAT: ClassVar[int] = 3

    name: str | None
    title: str | None
    arms: tuple[str, ...]
    sizes: tuple[int, ...]
    repeats: int | None
    test_patients: int | None
    folds: int | None
    """Of a cross-validation, in which the test patients are the annotated ones themselves."""
    metrics: tuple[MetricMean, ...]
    differences: tuple[ArmDifference, ...]
    told_apart: tuple[Standing, ...]
    bootstrap: Bootstrap
    provenance: Provenance
    """Without the stages."""


def study_summary(files: StudyFiles) -> StudySummary:
    """Gathers arms, sizes, metrics with intervals, paired differences and provenance."""
    study, provenance = files.study, files.provenance or Provenance()
    return StudySummary(
        name=files.config.name if files.config else None,
        title=files.config.title if files.config else None,
        arms=tuple(files.arms()),
        sizes=tuple(sorted({row.n for row in files.summary})),
        repeats=len(study.repeats) if study else None,
        test_patients=len(study.patients) if study else None,
        folds=files.table_settings.folds,
        metrics=tuple(_mean(row) for row in files.summary),
        differences=tuple(_difference(comparison) for comparison in files.comparisons),
        told_apart=tuple(_standing(leading, files.cross_validation) for leading in files.leading),
        bootstrap=Bootstrap(confidence=0.95, resamples=files.table_settings.resamples, unit="patients × repeats"),
        provenance=Provenance.model_validate(provenance.model_dump(exclude={"stages"}, exclude_unset=True)),
    )


def _mean(row: SummaryRow) -> MetricMean:
    return MetricMean(
        arm=row.arm,
        n=row.n,
        metric=row.metric,
        mean=row.mean,
        interval=_ends(Interval(row.mean, row.ci_low, row.ci_high)),
        no_interval=row.no_interval,
        cases=row.cases,
    )


def _difference(comparison: Comparison) -> ArmDifference:
    return ArmDifference(
        arm=comparison.arm,
        rival=comparison.rival,
        n=comparison.n,
        metric=comparison.metric,
        mean=comparison.difference,
        interval=_ends(comparison.interval),
        no_interval=why_no_interval(comparison.patients),
        patients=comparison.patients,
        p_value=comparison.p_value,
        p_holm=comparison.p_holm,
    )


def _standing(leading: LeadingArm, cross_validation: str | None) -> Standing:
    return Standing(
        n=leading.n,
        arm=leading.arm,
        ahead_of=tuple(lead.other for lead in leading.behind()),
        not_told_from=tuple(lead.other for lead in leading.not_told_apart()),
        not_compared_with=tuple(lead.other for lead in leading.not_compared()),
        sentence=told_apart(leading, cross_validation),
    )


def _ends(interval: Interval) -> Ends:
    return (interval.low, interval.high) if math.isfinite(interval.low) and math.isfinite(interval.high) else None
