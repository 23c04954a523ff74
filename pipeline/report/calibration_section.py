"""Calibration: how honest probabilities and volume intervals are, and which cases uncertainty tells to review."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.arm_dice_fit import dice_pairs, fit_dice
from pipeline.evaluation.calibration_tables import (
    CALIBRATION,
    CALIBRATION_SUMMARY,
    COVERAGE,
    RELIABILITY,
    CalibrationRow,
    ReliabilityRow,
)
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.options import CalibrationOptions
from pipeline.evaluation.statistics import Interval, why_no_interval
from pipeline.evaluation.study_results import COMPARISONS
from pipeline.evaluation.tables import StudyRows, SummaryRow
from pipeline.evaluation.temperature_scaling import SCALED
from pipeline.report.calibration_figures import coverage_plot, reliability_plot, review_plot
from pipeline.report.figure_style import DOTTED, ArmStyle, arm_styles
from pipeline.report.number_text import interval_text, number, p_text, percent, signed
from pipeline.report.picture import Picture
from pipeline.report.score_table import dice_by_size, score_table
from pipeline.report.section import Material, Section
from pipeline.storage.file_names import RESULTS

TITLE = "Calibration"
_SHOWN = ("ece", "nll", "brier", "false_positive_outside_ml")
"""Scores in the order of their tables: the first is shown, the others are folded away."""
_MEASURES = {
    "mutual_information": "mean mutual information near the predicted boundary (nats)",
    "entropy": "mean predictive entropy near the predicted boundary (nats)",
}


def calibration_section(material: Material) -> Section:
    """Builds the section from `results/calibration*.csv` and `results/reliability.csv`."""
    results, config = material.files.root / RESULTS, material.files.config
    absent = [name for name in (CALIBRATION, CALIBRATION_SUMMARY, RELIABILITY) if not (results / name).is_file()]
    if absent:
        text = (
            f"results/{absent[0]} is missing: the evaluate stage writes it, unless `evaluation.calibration` is `null`."
        )
        return Section("calibration", TITLE, missing=(text,))
    summary = read_rows(results / CALIBRATION_SUMMARY, SummaryRow)
    judged = material.files.calibration
    rows = judged.rows if judged is not None else []
    arms = _ordered(material, {r.arm for r in rows})
    styles = _styles(material, arms)
    options = (config and config.evaluation.calibration) or CalibrationOptions()
    dice = dice_by_size(material.files.summary)
    content = {
        "options": options,
        "tables": [score_table(summary, arms, metric, dice) for metric in _SHOWN],
        "reliability": _reliability(material, styles),
        "differences": _differences(results / COMPARISONS),
        "volumes": volume_table(summary, rows, arms),
        "coverage": _coverage(material, summary, arms, styles, options.level),
        "review": review_table(summary, arms, judged),
        "review_plots": _review_plots(material, rows, styles),
        "temperatures": temperatures(summary),
        "scaled_suffix": SCALED,
        "patients": len({r.patient for r in rows}),
        "no_boundary": sum(r.band_voxels == 0 for r in rows),
        "measured": len(rows),
    }
    return Section("calibration", TITLE, content)


def _ordered(material: Material, known: set[str]) -> list[str]:
    """Arms in the order of the report, each followed by itself after temperature scaling."""
    listed = [name for arm in material.files.arms() for name in (arm, arm + SCALED)]
    return [*(a for a in listed if a in known), *sorted(known - set(listed))]


def _styles(material: Material, arms: Sequence[str]) -> dict[str, ArmStyle]:
    """The styles that the arms have in every other figure; scaled, an arm keeps colour and marker and is dotted."""
    known = arm_styles(list(dict.fromkeys([*material.files.arms(), *(a.removesuffix(SCALED) for a in arms)])))
    return {
        arm: replace(known[arm.removesuffix(SCALED)], dash=DOTTED) if arm.endswith(SCALED) else known[arm]
        for arm in arms
    }


def _interval(row: SummaryRow, *, with_sign: bool = False) -> str:
    return interval_text(Interval(row.mean, row.ci_low, row.ci_high), 2, with_sign=with_sign)


def _find(summary: Sequence[SummaryRow], arm: str, n: int, metric: str) -> SummaryRow | None:
    return next((r for r in summary if (r.arm, r.n, r.metric) == (arm, n, metric)), None)


def _reliability(material: Material, styles: dict[str, ArmStyle]) -> list[Picture]:
    rows = read_rows(material.files.root / RESULTS / RELIABILITY, ReliabilityRow)
    pictures = []
    for n in sorted({r.n for r in rows}):
        curves = {arm: [r for r in rows if (r.arm, r.n) == (arm, n)] for arm in styles}
        figure = reliability_plot({arm: found for arm, found in curves.items() if found}, styles, n)
        alt = f"Frequency of foreground against its predicted probability at n = {n}, by arm"
        pictures.append(material.pictures.add(f"reliability-n{n:02d}", figure, alt))
    return pictures


def volume_table(
    summary: Sequence[SummaryRow], rows: Sequence[CalibrationRow], arms: Sequence[str]
) -> list[dict[str, Any]]:
    """Lists coverage and width of the volume intervals; arms without them say so."""
    lines = []
    for n in sorted({r.n for r in summary}):
        for arm in arms:
            draws = sorted({r.draws for r in rows if (r.arm, r.n) == (arm, n)})
            if not draws:
                continue
            line: dict[str, Any] = {"n": n, "arm": arm, "draws": ", ".join(map(str, draws)), "available": False}
            coverage, correlation = (_find(summary, arm, n, m) for m in (COVERAGE, "voxel_correlation"))
            line["correlation"] = number(correlation.mean, 2) if correlation else "–"
            if coverage is not None:
                width, relative, nominal = (
                    _find(summary, arm, n, m) for m in ("volume_width_ml", "volume_width_relative", "volume_nominal")
                )
                line |= {
                    "available": True,
                    "coverage": number(coverage.mean, 2),
                    "interval": _interval(coverage),
                    "nominal": number(nominal.mean, 3) if nominal else "–",
                    "width": number(width.mean, 2) if width else "–",
                    "relative": percent(relative.mean) if relative else "–",
                }
            lines.append(line)
    return lines


def _coverage(
    material: Material, summary: Sequence[SummaryRow], arms: Sequence[str], styles: dict[str, ArmStyle], level: float
) -> Picture | None:
    found = {
        arm: {r.n: Interval(r.mean, r.ci_low, r.ci_high) for r in summary if (r.arm, r.metric) == (arm, COVERAGE)}
        for arm in arms
    }
    found = {arm: by_size for arm, by_size in found.items() if by_size}
    if not found:
        return None
    figure = coverage_plot(found, styles, level)
    return material.pictures.add("volume-coverage", figure, "Coverage of the volume intervals, by arm and size")


def review_table(
    summary: Sequence[SummaryRow], arms: Sequence[str], judged: StudyRows[CalibrationRow] | None
) -> dict[str, Any]:
    """Arranges the rank correlations of uncertainty with Dice, a line for each size and arm.

    The expected Dice stands beside the real one with the error of an estimate from the other, or is not shown.
    """
    columns = {
        "spearman_entropy": "Entropy",
        "spearman_mutual_information": "Mutual information",
        "spearman_expected_dice": "Expected Dice",
    }
    lines = []
    for n in sorted({r.n for r in summary}):
        for arm in arms:
            found = [_find(summary, arm, n, metric) for metric in columns]
            if any(found):
                cells = [r and {"mean": signed(r.mean, 2), "interval": _interval(r, with_sign=True)} for r in found]
                fit = None if judged is None else fit_dice(dice_pairs(judged, arm, n))
                expected = fit and {
                    "mean": number(fit.expected_mean),
                    "dice": f"{number(fit.real_mean)} ± {number(fit.error)}",
                }
                lines.append({"n": n, "arm": arm, "cells": cells, "expected": expected})
    return {"titles": list(columns.values()), "lines": lines}


def _differences(path: Path) -> list[dict[str, Any]]:
    """Lists the paired differences of ECE; none where the table is missing or no rival was run."""
    rows = [r for r in read_rows(path, Comparison) if r.metric == "ece"] if path.is_file() else []
    return [
        {
            "n": r.n,
            "arm": r.arm,
            "rival": r.rival,
            "mean": signed(r.difference),
            "interval": interval_text(r.interval, with_sign=True),
            "p": p_text(r.p_holm),
        }
        for r in rows
        if math.isfinite(r.difference) and not why_no_interval(r.patients)
    ]


def _review_plots(material: Material, rows: Sequence[CalibrationRow], styles: dict[str, ArmStyle]) -> list[Picture]:
    """At the largest size, one figure for each measure of uncertainty that any arm has."""
    study = StudyRows([r for r in rows if not r.arm.endswith(SCALED)])
    if not study.rows:
        return []
    n = study.sizes[-1]
    quality = study.table("dice", n)
    pictures = []
    for column, measure in _MEASURES.items():
        doubt = study.table(column, n)
        points = {arm: (doubt.patient_means(arm), 1 - quality.patient_means(arm)) for arm in doubt.arms}
        points = {arm: found for arm, found in points.items() if (np.isfinite(found[0]) & np.isfinite(found[1])).any()}
        if points:
            ordered = {arm: points[arm] for arm in styles if arm in points}
            figure = review_plot(ordered, styles, n, measure)
            alt = f"Error of every test patient against {measure} at n = {n}, by arm"
            pictures.append(material.pictures.add(f"review-{column.replace('_', '-')}", figure, alt))
    return pictures


def temperatures(summary: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """Lists the fitted temperatures of the scaled arms."""
    return [
        {"arm": r.arm.removesuffix(SCALED), "n": r.n, "mean": number(r.mean, 2)}
        for r in summary
        if r.metric == "temperature"
    ]
