"""The result tables of a whole study, from what was measured of each trained arm."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.evaluation.calibration_tables import (
    CALIBRATION,
    CALIBRATION_SUMMARY,
    RELIABILITY,
    CalibrationRow,
    ReliabilityRow,
    summarise_calibration,
    write_calibration_csv,
    write_reliability_csv,
)
from pipeline.evaluation.comparison import Comparison, compare_arms
from pipeline.evaluation.csv_rows import write_rows
from pipeline.evaluation.empty_mask_counts import EmptyMaskCount, count_empty_masks
from pipeline.evaluation.label_audit import LABEL_AUDIT, AuditRow, study_audit
from pipeline.evaluation.label_efficiency import LabelEfficiency, label_efficiencies, why_no_efficiency
from pipeline.evaluation.leading_arm import Lead, leads, ranked_arms
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.tables import (
    CaseRow,
    StudyRows,
    SummaryRow,
    summarise,
    write_cases_csv,
)
from pipeline.evaluation.temperature_scaling import SCALED

logger = logging.getLogger(__name__)

CASES, SUMMARY = "cases.csv", "summary.csv"
COMPARISONS, LEADING_ARMS = "comparisons.csv", "leading_arms.csv"
LABEL_EFFICIENCY, EMPTY_MASKS = "label_efficiency.csv", "empty_masks.csv"
TABLES = (
    CASES,
    SUMMARY,
    COMPARISONS,
    LEADING_ARMS,
    LABEL_EFFICIENCY,
    EMPTY_MASKS,
    LABEL_AUDIT,
    CALIBRATION,
    RELIABILITY,
    CALIBRATION_SUMMARY,
)
"""All tables; those of the calibration may be missing."""
COMPARED_CALIBRATION = ("ece", "nll", "brier")


def write_study_results(
    folder: Path,
    rows: Sequence[CaseRow],
    calibration: Sequence[CalibrationRow],
    reliability: Sequence[ReliabilityRow],
    audit: Sequence[AuditRow],
    *,
    options: EvaluationOptions,
    rivals: Collection[str],
    seed: int,
    folds: int | None = None,
) -> None:
    """Writes all tables of `results/`.

    Args:
        folder: an empty one, where they go.
        rows: metrics of all trained arms.
        calibration: of all trained arms; empty where it was switched off.
        reliability: points of their reliability curves.
        audit: annotations against out-of-fold predictions, of all trained arms.
        options: of the evaluation.
        rivals: names of the non-Bayesian arms.
        seed: of the study.
        folds: of the cross-validation that they are of; `None` for a study with test patients.
    """
    study = StudyRows(list(rows), folds)
    write_cases_csv(rows, folder / CASES)
    write_rows(folder / SUMMARY, SummaryRow, summarise(study, seed, options.resamples))
    write_rows(folder / EMPTY_MASKS, EmptyMaskCount, count_empty_masks(rows, options.policies()))
    comparisons: list[Comparison] = []
    leading: list[Lead] = []
    efficiencies: list[LabelEfficiency] = []
    if rows:
        draws = study.draws(seed=seed, resamples=options.resamples)
        for metric in study.metrics():
            comparisons += compare_arms(study, draws, metric=metric, rivals=rivals)
        leading = leads(study, draws)
        efficiencies = label_efficiencies(study, draws)
        if reason := why_no_efficiency(study):
            logger.info("label efficiency is not available: %s", reason)
    judged = StudyRows(list(calibration), folds)
    if calibration:
        draws = judged.draws(seed=seed, resamples=options.resamples)
        scaled = {*rivals, *(name + SCALED for name in rivals)}
        for metric in judged.metrics(COMPARED_CALIBRATION):
            comparisons += compare_arms(judged, draws, metric=metric, rivals=scaled)
    write_rows(folder / COMPARISONS, Comparison, comparisons)
    write_rows(folder / LEADING_ARMS, Lead, leading)
    write_rows(folder / LABEL_EFFICIENCY, LabelEfficiency, efficiencies)
    write_rows(folder / LABEL_AUDIT, AuditRow, _best_audit(study, audit))
    _write_calibration(folder, judged, reliability, seed, options.resamples)


def _best_audit(study: StudyRows[CaseRow], audit: Sequence[AuditRow]) -> list[AuditRow]:
    """The audit by the best arm at the largest size: what knows the structure best judges the annotations."""
    if not study.rows:
        return []
    n = study.sizes[-1]
    best = next(iter(ranked_arms(study.table("dice", n))), None)
    return study_audit(row for row in audit if (row.arm, row.n) == (best, n))


def _write_calibration(
    folder: Path,
    calibration: StudyRows[CalibrationRow],
    reliability: Sequence[ReliabilityRow],
    seed: int,
    resamples: int,
) -> None:
    if not calibration.rows:
        return
    write_calibration_csv(calibration.rows, folder / CALIBRATION)
    write_reliability_csv(reliability, folder / RELIABILITY)
    write_rows(folder / CALIBRATION_SUMMARY, SummaryRow, summarise_calibration(calibration, seed, resamples))
