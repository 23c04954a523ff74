"""The results: tables with intervals, paired differences, learning curve, spread over patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pipeline.evaluation.case_row import METRICS
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_P, why_no_interval
from pipeline.evaluation.study_results import COMPARISONS, LEADING_ARMS
from pipeline.evaluation.tables import StudyRows, SummaryRow
from pipeline.metrics.overlap import EmptyMask
from pipeline.report.figure_style import ArmStyle, arm_styles
from pipeline.report.number_text import interval_text, p_text, signed
from pipeline.report.picture import Picture
from pipeline.report.result_figures import difference_limits, difference_plot, learning_curve, patient_plot
from pipeline.report.score_table import metric_table, overview_table
from pipeline.report.section import Material, Section
from pipeline.report.verdict import far_off, told_apart
from pipeline.storage.file_names import RESULTS

EMPTY_NAMES = {
    EmptyMask.BOTH.value: "reference and prediction both empty",
    EmptyMask.REFERENCE.value: "reference empty, prediction not",
    EmptyMask.PREDICTION.value: "prediction empty: the structure was missed",
}

OVERVIEW = tuple(name for name, metric in METRICS.items() if metric.overview)
"""Metrics that stand side by side: an arm with the best Dice may err far away, or find lesions where there are none."""
_COMPARED = {
    COMPARISONS: "there are no paired differences",
    LEADING_ARMS: "it is not said which arms can be told apart",
}
_MOST_ROWS = 16
"""Rows of paired differences that one figure holds."""


def result_section(material: Material) -> Section:
    """Builds the section of results from the tables of `results/`."""
    study, summary, config = material.files.study, material.files.summary, material.files.config
    if config is not None and not config.target.tested:
        text = "The study tests nobody, so nothing says how good its models are: annotate more patients, and test them."
        return Section("results", "Results", missing=(text,))
    missing = []
    if not summary:
        missing.append(
            "results/summary.csv is missing or empty: the evaluate stage writes it, so there is no result table."
        )
    if study is None:
        missing.append(
            "results/cases.csv is missing or empty: the evaluate stage writes it, so there are no paired differences "
            "and no picture of the spread over patients."
        )
    if study is not None:
        missing += [
            f"results/{name} is missing: the evaluate stage writes it, so {what}."
            for name, what in _COMPARED.items()
            if not (material.files.root / RESULTS / name).is_file()
        ]
    content: dict[str, Any] = {}
    if summary:
        content |= _summary_content(material, summary)
    if study is not None:
        content |= _study_content(material, study)
    return Section("results", "Results", content, tuple(missing))


def _summary_content(material: Material, summary: list[SummaryRow]) -> dict[str, Any]:
    arms = material.files.arms()
    metrics = list(dict.fromkeys(r.metric for r in summary))
    curve = [r for r in summary if r.metric == "dice"]
    picture = None
    if curve:
        figure = learning_curve(curve, arm_styles(arms), "Dice")
        picture = material.pictures.add(
            "learning-curve", figure, "Mean Dice against the number of target patients, by arm"
        )
    return {
        "overview": overview_table(summary, arms, OVERVIEW),
        "tables": [metric_table(summary, arms, metric) for metric in metrics],
        "no_interval": _no_interval_at_all(curve),
        "learning_curve": picture,
    }


def _no_interval_at_all(rows: list[SummaryRow]) -> str:
    """Says why no arm has an interval; empty where one has."""
    reasons = [row.no_interval for row in rows if np.isfinite(row.mean)]
    return max((r for r in reasons if r), default="") if reasons and all(reasons) else ""


def _study_content(material: Material, study: StudyRows) -> dict[str, Any]:
    files = material.files
    arms = files.arms()
    styles = arm_styles(arms)
    without_model = {} if files.config is None else files.config.target_training.without_model_at_zero()
    comparisons = sorted(files.comparisons, key=lambda c: (c.n, arms.index(c.arm)))
    differences = difference_pictures(material, comparisons, styles)
    plots = []
    for n in study.sizes:
        figure = patient_plot(study.table("dice", n), styles, "Dice", n)
        plots.append(
            material.pictures.add(f"patients-n{n:02d}", figure, f"Dice of every test patient at n = {n}, by arm")
        )
    return {
        "verdicts": [told_apart(leading, files.cross_validation) for leading in files.leading],
        "remarks": [remark for n in study.sizes if (remark := far_off(study, n))],
        "differences": difference_table(comparisons, arms),
        "no_rival": not comparisons and (files.root / RESULTS / COMPARISONS).is_file(),
        "no_difference": why_no_interval(len(study.patients)),
        "best_bayesian": best_bayesian(material, comparisons),
        "difference_plots": differences,
        "patient_plots": plots,
        "fewest_for_p": FEWEST_PATIENTS_FOR_P,
        "several_repeats": len(study.repeats) > 1,
        "cross_validation": files.cross_validation,
        "patients": len(study.patients),
        "resamples": files.table_settings.resamples,
        "incomplete": [*missing_units(material), *incomplete_cells(study, without_model)],
        "without_model": [f"{arm}: {reason}" for arm, reason in without_model.items()],
        "empty_masks": empty_masks(study),
        "empty_policy": files.config and files.config.evaluation.empty_masks,
    }


def difference_pictures(
    material: Material, comparisons: list[Comparison], styles: Mapping[str, ArmStyle]
) -> list[Picture]:
    """Draws the paired differences: in one figure if they fit, else in one for each size on the same axis."""
    comparisons = [c for c in comparisons if np.isfinite(c.difference)]
    if not comparisons:
        return []
    alt = "Paired differences of Dice to the best rival, by arm"
    if len(comparisons) <= _MOST_ROWS:
        return [material.pictures.add("paired-differences", difference_plot(comparisons, styles, "Dice"), alt)]
    limits, pictures = difference_limits(comparisons), []
    for n in sorted({c.n for c in comparisons}):
        figure = difference_plot([c for c in comparisons if c.n == n], styles, "Dice", limits)
        pictures.append(material.pictures.add(f"paired-differences-n{n:02d}", figure, f"{alt}, n = {n}"))
    return pictures


def difference_table(comparisons: list[Comparison], arms: list[str]) -> dict[str, Any] | None:
    """Arranges the paired differences as arm × size; None where no rival was run."""
    if not comparisons:
        return None
    at = {(c.arm, c.n): c for c in comparisons}
    rivals = {c.n: c.rival for c in comparisons}
    lines = []
    for arm in arms:
        cells: list[dict[str, Any] | None] = []
        for n in rivals:
            if arm == rivals[n]:
                cells.append({"rival": True})
                continue
            c = at.get((arm, n))
            cells.append(_difference_cell(c) if c else None)
        lines.append({"arm": arm, "cells": cells})
    return {"sizes": list(rivals), "rivals": list(rivals.values()), "lines": lines}


def _difference_cell(comparison: Comparison) -> dict[str, Any]:
    interval = comparison.interval
    # A bootstrap over a handful of patients gives intervals that are too narrow to call a winner from.
    enough = comparison.patients >= FEWEST_PATIENTS_FOR_P
    verdict = "" if not enough else "better" if interval.low > 0 else "worse" if interval.high < 0 else ""
    return {
        "rival": False,
        "mean": signed(interval.mean),
        "interval": interval_text(interval, with_sign=True),
        "verdict": verdict,
        "p": p_text(comparison.p_holm),
    }


def best_bayesian(material: Material, comparisons: list[Comparison]) -> dict[int, dict[str, str]]:
    """Picks at every size the arm outside the rivals with the largest difference, for the head of the page."""
    picked, rivals = {}, material.files.table_settings.rivals
    for n in sorted({c.n for c in comparisons}):
        family = [c for c in comparisons if c.n == n and c.arm not in rivals]
        family = [c for c in family if np.isfinite(c.difference)]
        if family:
            c = max(family, key=lambda c: c.difference)
            cell = _difference_cell(c)
            picked[n] = {"arm": c.arm, "rival": c.rival, "mean": cell["mean"], "interval": cell["interval"]}
    return picked


def missing_units(material: Material) -> list[str]:
    """Names the arm × size × repeat units that the configuration asks for and `infer/` does not hold."""
    files, config = material.files, material.files.config
    if not files.units or config is None:
        return []
    training, everyone = config.target_training, set[int]()
    if config.target.cross_validated and files.plan is not None:
        everyone = {files.patients["pool"]}
    there = {(u.arm, u.n, u.repeat) for u in files.units}
    wanted = [
        (arm, n, repeat)
        for arm in training.arms
        for n in sorted({*training.sizes_of(arm), *everyone})
        for repeat in range(training.repeats)
    ]
    return [
        f"{arm} at n = {n}, repeat {repeat}: not trained" for arm, n, repeat in wanted if (arm, n, repeat) not in there
    ]


def incomplete_cells(study: StudyRows, without_model: Collection[str] = ()) -> list[str]:
    """Names the arms that lack measurements which other arms have, so that no average hides a failed unit.

    Args:
        study: all rows.
        without_model: arms that have no model of n = 0.
    """
    lacking = []
    for n in study.sizes:
        table = study.table("dice", n)
        measured = np.isfinite(table.values)
        most = int(measured.any(axis=0).sum())
        for arm, cells in zip(table.arms, measured, strict=True):
            if int(cells.sum()) < most:
                lacking.append(f"{arm} at n = {n}: {int(cells.sum())} of {most} patient × repeat cells")
        absent = [arm for arm in study.arms if arm not in table.arms and (n > 0 or arm not in without_model)]
        lacking += [f"{arm} at n = {n}: not run" for arm in absent]
    return lacking


def empty_masks(study: StudyRows) -> list[dict[str, Any]]:
    """Counts by arm the masks that the empty-mask policy touched."""
    counts = Counter((r.arm, r.empty) for r in study.rows if r.empty != EmptyMask.NEITHER.value)
    totals = Counter(r.arm for r in study.rows)
    return [
        {"arm": arm, "what": EMPTY_NAMES.get(kind, kind), "count": count, "total": totals[arm]}
        for (arm, kind), count in sorted(counts.items())
    ]
