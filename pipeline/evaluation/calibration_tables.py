"""The tables of calibration: one row per case and label, the points of the reliability curves, and the summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.evaluation.case_review import rank_correlation
from pipeline.evaluation.csv_rows import write_rows
from pipeline.evaluation.statistics import Interval, measured_patients, why_no_interval
from pipeline.evaluation.tables import PatientTable, StudyRows, SummaryRow, sorted_rows, summarise, summary_row
from pipeline.evaluation.volume_interval import coverage_interval
from pipeline.metrics.measure import Measure, measures

_NLL = Measure(title="NLL", unit="nats", less_is_better=True)
_BRIER = Measure(title="Brier", less_is_better=True, digits=4)
_ECE = Measure(title="ECE", less_is_better=True)
_FALSE_POSITIVE_OUTSIDE = Measure(title="False positives outside", unit="ml", less_is_better=True)


@dataclass(frozen=True)
class CalibrationRow:
    """How honest one trained arm was about one label of one test case; NaN where something is not available.

    Attributes:
        arm: preset name; with `+temperature` after temperature scaling.
        n: number of target patients it learned from.
        repeat: which repeat.
        case: test case.
        patient: whose case it is.
        label: name of the structure.
        temperature: T of the scaling; NaN without.
        voxel_correlation: ρ of the volume interval; NaN where it is that of the draws' masks.
        draws: passes that the probability is the mean of.
        band_voxels: voxels in the band around the reference boundary.
        nll: mean negative log-likelihood in nats in the band.
        brier: mean Brier score in the band.
        ece: expected calibration error in the band, of all cases of the patient together: the same on each of them.
        false_positive_outside_ml: predicted in ml outside the band where the reference has none.
        dice: of the case, as in `cases.csv`.
        entropy: mean predictive entropy in nats near the predicted boundary.
        mutual_information: the same of mutual information.
        expected_dice: Dice that the probabilities promise.
        reference_ml: volume of the reference on the preprocessed grid, where the intervals are.
        volume_low_ml: lower end of the volume interval.
        volume_high_ml: upper end.
        volume_nominal: coverage that the interval promises.
        covered: 1 if the interval holds the reference volume, else 0.
        volume_width_ml: width of the interval.
        volume_width_relative: its width / the reference volume.
    """

    arm: str
    n: int
    repeat: int
    case: str
    patient: str
    label: str
    temperature: float = math.nan
    voxel_correlation: float = math.nan
    draws: int = 1
    band_voxels: int = 0
    nll: float = field(default=math.nan, metadata=_NLL.column())
    brier: float = field(default=math.nan, metadata=_BRIER.column())
    ece: float = field(default=math.nan, metadata=_ECE.column())
    false_positive_outside_ml: float = field(default=math.nan, metadata=_FALSE_POSITIVE_OUTSIDE.column())
    dice: float = math.nan
    entropy: float = math.nan
    mutual_information: float = math.nan
    expected_dice: float = math.nan
    reference_ml: float = math.nan
    volume_low_ml: float = math.nan
    volume_high_ml: float = math.nan
    volume_nominal: float = math.nan
    covered: float = math.nan
    volume_width_ml: float = math.nan
    volume_width_relative: float = math.nan


@dataclass(frozen=True)
class ReliabilityRow:
    """One bin of the reliability curve of one trained arm; bins without a voxel have no row.

    Attributes:
        arm: preset name; with `+temperature` after temperature scaling.
        n: number of target patients it learned from.
        repeat: which repeat.
        label: name of the structure.
        low: lower end of the bin, of equal width.
        high: upper end.
        share: of the voxels in the band, patients weighing the same.
        probability: mean p(foreground).
        frequency: how often the voxels were foreground.
    """

    arm: str
    n: int
    repeat: int
    label: str
    low: float
    high: float
    share: float
    probability: float
    frequency: float


SCORES: dict[str, Measure] = measures(CalibrationRow)
"""Column → score of the calibration."""
CALIBRATION, RELIABILITY = "calibration.csv", "reliability.csv"
CALIBRATION_SUMMARY = "calibration_summary.csv"
AVERAGED = (
    "nll",
    "brier",
    "ece",
    "false_positive_outside_ml",
    "temperature",
    "voxel_correlation",
    "expected_dice",
    "volume_width_ml",
    "volume_width_relative",
    "volume_nominal",
)
"""Columns that the summary averages as it does metrics."""
COVERAGE = "volume_coverage"
"""Share of the patients whose volume interval holds the reference volume, with its binomial interval."""
RANKED = ("entropy", "mutual_information", "expected_dice")
"""Columns whose rank correlation with Dice the summary holds, as `spearman_COLUMN`: −1 is best for the doubts, 1 for
expected Dice."""


def write_calibration_csv(rows: Iterable[CalibrationRow], path: Path) -> None:
    """Writes `calibration.csv` atomically, sorted."""
    write_rows(path, CalibrationRow, sorted_rows(rows))


def write_reliability_csv(rows: Iterable[ReliabilityRow], path: Path) -> None:
    """Writes `reliability.csv` atomically, sorted."""
    write_rows(path, ReliabilityRow, sorted(rows, key=lambda r: (r.n, r.arm, r.repeat, r.label, r.low)))


def summarise_calibration(study: StudyRows[CalibrationRow], seed: int, resamples: int) -> list[SummaryRow]:
    """Summarises calibration per arm and size.

    Args:
        study: all rows.
        seed: of the study; with the same patients and repeats the draws are those of the metrics.
        resamples: number of bootstrap resamples.

    Returns:
        Means with crossed bootstrap intervals; the coverage of the volume intervals with its binomial interval over
        patients; the rank correlations of uncertainty with Dice. Nothing that is not available has a row.
    """
    if not study.rows:
        return []
    draws = study.draws(seed=seed, resamples=resamples)
    summary = summarise(study, seed, resamples, AVERAGED)
    for n in study.sizes:
        summary += _by_arm(study.table("covered", n), n, COVERAGE, _coverage)
        quality = study.table("dice", n)
        for column in RANKED:
            doubt = study.table(column, n)
            summary += [
                summary_row(arm, n, f"spearman_{column}", found, cases, measured_patients(quality.of(arm)))
                for arm, cases in zip(quality.arms, quality.cases, strict=True)
                for found in [rank_correlation(doubt.of(arm), quality.of(arm), draws)]
                if math.isfinite(found.mean)
            ]
    defined = [row for row in summary if math.isfinite(row.mean)]
    return sorted(defined, key=lambda r: (r.n, study.arms.index(r.arm)))


def _by_arm(table: PatientTable, n: int, metric: str, measure: Callable[[np.ndarray], Interval]) -> list[SummaryRow]:
    rows = []
    for arm, cases in zip(table.arms, table.cases, strict=True):
        values = table.of(arm)
        rows.append(summary_row(arm, n, metric, measure(values), cases, measured_patients(values)))
    return rows


def _coverage(covered: np.ndarray) -> Interval:
    """Coverage over `[P, R]`: repeats of a patient are averaged, and each patient is one trial."""
    measured = np.isfinite(covered)
    of_patient = [float(values[m].mean()) for values, m in zip(covered, measured, strict=True) if m.any()]
    found = coverage_interval(sum(of_patient), len(of_patient))
    return Interval(found.mean, math.nan, math.nan) if why_no_interval(len(of_patient)) else found
