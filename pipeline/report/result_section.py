"""The results: tables with intervals, paired differences, learning curve, spread over patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.arms.presets import REFERENCE_ARM
from pipeline.evaluation.comparison import Comparison, compare_arms
from pipeline.evaluation.metrics import EmptyMask
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_P
from pipeline.evaluation.tables import StudyRows, SummaryRow, compared_sizes
from pipeline.report.figure_style import ArmStyle, arm_styles
from pipeline.report.picture import Picture
from pipeline.report.result_figures import difference_limits, difference_plot, learning_curve, patient_plot
from pipeline.report.section import LESS_IS_BETTER, METRIC_NAMES, Material, Section, number, signed
from pipeline.report.study_files import nested

EMPTY_NAMES = {
    EmptyMask.BOTH.value: "reference and prediction both empty",
    EmptyMask.REFERENCE.value: "reference empty, prediction not",
    EmptyMask.PREDICTION.value: "prediction empty: the structure was missed",
}

_MOST_ROWS = 16
"""Rows of paired differences that one figure holds."""


def result_section(material: Material) -> Section:
    """Builds the section of results from `results/summary.csv` and `results/cases.csv`."""
    study, summary = material.files.study, material.files.summary
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
    content: dict[str, Any] = {}
    if summary:
        content |= _summary_content(material, summary)
    if study is not None:
        content |= _study_content(material, study)
    return Section("results", "Results", content, tuple(missing))


def _summary_content(material: Material, summary: list[SummaryRow]) -> dict[str, Any]:
    arms = material.files.arms()
    summary = sorted(summary, key=lambda r: arms.index(r.arm))
    tables = [result_table(summary, metric) for metric in dict.fromkeys(r.metric for r in summary)]
    curve = [r for r in summary if r.metric == "dice"]
    picture = None
    if curve:
        figure = learning_curve(curve, arm_styles(arms), "Dice")
        picture = material.pictures.add(
            "learning-curve", figure, "Mean Dice against the number of target patients, by arm"
        )
    return {
        "tables": [t for t in tables if t["metric"] in {"dice", "iou"}],
        "more_tables": [t for t in tables if t["metric"] not in {"dice", "iou"}],
        "learning_curve": picture,
    }


def metric_title(metric: str) -> str:
    """Prints a metric of the summary, e.g. `dice[spleen]` as `Dice, spleen`."""
    name, _, label = metric.partition("[")
    return METRIC_NAMES.get(name, name) + (f", {label[:-1]}" if label else "")


def result_table(summary: list[SummaryRow], metric: str) -> dict[str, Any]:
    """Arranges one metric as arm × size; the best mean of every column is marked."""
    rows = [r for r in summary if r.metric == metric]
    sizes = sorted({r.n for r in rows})
    sign = -1 if metric.partition("[")[0] in LESS_IS_BETTER else 1
    best = {
        n: max((r for r in rows if r.n == n and np.isfinite(r.mean)), key=lambda r: sign * r.mean, default=None)
        for n in compared_sizes(rows)
    }
    digits = 2 if sign < 0 else 3
    lines = []
    for arm in dict.fromkeys(r.arm for r in rows):
        cells = []
        for n in sizes:
            row = next((r for r in rows if r.arm == arm and r.n == n), None)
            cells.append(
                row
                and {
                    "mean": number(row.mean, digits),
                    "interval": f"[{number(row.ci_low, digits)}, {number(row.ci_high, digits)}]",
                    "cases": row.cases,
                    "best": row is best.get(n),
                }
            )
        lines.append({"arm": arm, "cells": cells})
    return {"metric": metric, "title": metric_title(metric), "sizes": sizes, "lines": lines}


def _study_content(material: Material, study: StudyRows) -> dict[str, Any]:
    options, arms = material.options, material.files.arms()
    styles = arm_styles(arms)
    draws = study.draws(seed=material.files.seed, resamples=options.resamples)
    comparisons = compare_arms(study, draws, rivals=material.rivals())
    comparisons.sort(key=lambda c: (c.n, arms.index(c.arm)))
    differences = difference_pictures(material, comparisons, styles)
    plots = []
    for n in study.sizes:
        figure = patient_plot(study.table("dice", n), styles, "Dice", n)
        plots.append(
            material.pictures.add(f"patients-n{n:02d}", figure, f"Dice of every test patient at n = {n}, by arm")
        )
    return {
        "differences": difference_table(comparisons, arms),
        "best_bayesian": best_bayesian(material, comparisons),
        "difference_plots": differences,
        "patient_plots": plots,
        "fewest_for_p": FEWEST_PATIENTS_FOR_P,
        "patients": len(study.patients),
        "resamples": options.resamples,
        "incomplete": [*missing_units(material), *incomplete_cells(study)],
        "empty_masks": empty_masks(study),
        "empty_policy": nested(material.files.config, "evaluation", "empty_masks"),
    }


def difference_pictures(
    material: Material, comparisons: list[Comparison], styles: Mapping[str, ArmStyle]
) -> list[Picture]:
    """Draws the paired differences: in one figure if they fit, else in one for each size on the same axis."""
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
    interval = comparison.difference.interval
    # A bootstrap over a handful of patients gives intervals that are too narrow to call a winner from.
    enough = comparison.difference.patients >= FEWEST_PATIENTS_FOR_P
    verdict = "" if not enough else "better" if interval.low > 0 else "worse" if interval.high < 0 else ""
    p = comparison.p_holm
    return {
        "rival": False,
        "mean": signed(interval.mean),
        "interval": f"[{signed(interval.low)}, {signed(interval.high)}]",
        "verdict": verdict,
        "p": None if p is None else ("p < 0.001" if p < 0.001 else f"p = {p:.3f}"),
    }


def best_bayesian(material: Material, comparisons: list[Comparison]) -> dict[int, dict[str, str]]:
    """Picks at every size the arm outside the rivals with the largest difference, for the head of the page."""
    picked = {}
    for n in sorted({c.n for c in comparisons}):
        family = [c for c in comparisons if c.n == n and c.arm not in material.rivals()]
        family = [c for c in family if np.isfinite(c.difference.interval.mean)]
        if family:
            c = max(family, key=lambda c: c.difference.interval.mean)
            cell = _difference_cell(c)
            picked[n] = {"arm": c.arm, "rival": c.rival, "mean": cell["mean"], "interval": cell["interval"]}
    return picked


def missing_units(material: Material) -> list[str]:
    """Names the arm × size × repeat units that the configuration asks for and `infer/` does not hold."""
    inference = nested(material.files.config, "inference", default={})
    arms, sizes, repeats = (nested(inference, key) for key in ("arms", "sizes", "repeats"))
    if not material.files.units or not arms or not sizes or not repeats:
        return []
    there = {(u.arm, u.n, u.repeat) for u in material.files.units}
    more = {REFERENCE_ARM: nested(inference, "reference_sizes", default=())}
    wanted = [
        (arm, int(n), repeat)
        for arm in arms
        for n in sorted({*sizes, *more.get(arm, ())})
        for repeat in range(int(repeats))
    ]
    return [
        f"{arm} at n = {n}, repeat {repeat}: not trained" for arm, n, repeat in wanted if (arm, n, repeat) not in there
    ]


def incomplete_cells(study: StudyRows) -> list[str]:
    """Names the arms that lack measurements which other arms have, so that no average hides a failed unit."""
    lacking = []
    for n in study.sizes:
        table = study.table("dice", n)
        measured = np.isfinite(table.values)
        most = int(measured.any(axis=0).sum())
        for arm, cells in zip(table.arms, measured, strict=True):
            if int(cells.sum()) < most:
                lacking.append(f"{arm} at n = {n}: {int(cells.sum())} of {most} patient × repeat cells")
        lacking += [f"{arm} at n = {n}: not run" for arm in study.arms if arm not in table.arms]
    return lacking


def empty_masks(study: StudyRows) -> list[dict[str, Any]]:
    """Counts by arm the masks that the empty-mask policy touched."""
    counts = Counter((r.arm, r.empty) for r in study.rows if r.empty != EmptyMask.NEITHER.value)
    totals = Counter(r.arm for r in study.rows)
    return [
        {"arm": arm, "what": EMPTY_NAMES.get(kind, kind), "count": count, "total": totals[arm]}
        for (arm, kind), count in sorted(counts.items())
    ]
