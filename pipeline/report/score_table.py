"""Tables of scores: arms in rows, sizes or metrics in columns, the best of a column marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.arm_ranking import arms_that_segment, arms_with_patients_enough, best_arms
from pipeline.evaluation.measure_titles import measure_of, metric_title
from pipeline.evaluation.statistics import Interval
from pipeline.evaluation.tables import SummaryRow
from pipeline.evaluation.temperature_scaling import SCALED
from pipeline.metrics.measure import Measure
from pipeline.report.number_text import interval_text, number

MeanDice = Mapping[int, Mapping[str, float]]
"""Size → arm → mean Dice, which decides who may be called the best."""


def dice_by_size(summary: Sequence[SummaryRow]) -> dict[int, dict[str, float]]:
    """Gathers the mean Dice of every arm at every size."""
    found: dict[int, dict[str, float]] = {}
    for row in summary:
        if row.metric == "dice":
            found.setdefault(row.n, {})[row.arm] = row.mean
    return found


def score_column(rows: Sequence[SummaryRow], dice: Mapping[str, float], measure: Measure) -> dict[str, dict[str, Any]]:
    """Prints one metric at one size.

    Args:
        rows: of that metric and size, one an arm.
        dice: arm → mean Dice at that size.
        measure: its direction and digits.

    Returns:
        Arm → its cell. All arms that tie for the best mean are marked; none where one arm stands alone.
    """
    worthy = arms_that_segment({r.arm: dice.get(r.arm.removesuffix(SCALED), math.nan) for r in rows})
    enough = arms_with_patients_enough({r.arm: r.patients or r.cases for r in rows if math.isfinite(r.mean)})
    means = {r.arm: r.mean for r in rows if r.arm in worthy & enough}
    best = best_arms(means, less_is_better=measure.less_is_better, digits=measure.digits) if len(rows) > 1 else set()
    return {
        r.arm: {
            "mean": number(r.mean, measure.digits),
            "interval": interval_text(Interval(r.mean, r.ci_low, r.ci_high), measure.digits),
            "best": r.arm in best,
        }
        for r in rows
    }


def score_table(
    summary: Sequence[SummaryRow],
    arms: Sequence[str],
    metric: str,
    dice: MeanDice,
) -> dict[str, Any]:
    """Arranges one metric as arm × size.

    Args:
        summary: rows of any metrics.
        arms: in the order of the lines; those without the metric have none.
        metric: which.
        dice: who may be called the best.
    """
    rows = [r for r in summary if r.metric == metric]
    sizes = sorted({r.n for r in rows})
    columns = {n: score_column([r for r in rows if r.n == n], dice.get(n, {}), measure_of(metric)) for n in sizes}
    known = {r.arm for r in rows}
    lines = [{"arm": arm, "cells": [columns[n].get(arm) for n in sizes]} for arm in arms if arm in known]
    return {"metric": metric, "title": metric_title(metric), "sizes": sizes, "lines": lines}


def metric_table(summary: Sequence[SummaryRow], arms: Sequence[str], metric: str) -> dict[str, Any]:
    """Arranges one metric of `summary.csv` as arm × size."""
    return score_table(summary, arms, metric, dice_by_size(summary))


def overview_table(summary: Sequence[SummaryRow], arms: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Arranges several metrics side by side, a block of lines for each size.

    Args:
        summary: rows of any metrics.
        arms: in the order of the lines.
        metrics: the columns; those without any row have none.
    """
    shown = [m for m in metrics if any(r.metric == m for r in summary)]
    dice, blocks = dice_by_size(summary), []
    for n in sorted({r.n for r in summary}):
        columns = [
            score_column([r for r in summary if (r.metric, r.n) == (m, n)], dice.get(n, {}), measure_of(m))
            for m in shown
        ]
        known = [arm for arm in arms if any(arm in column for column in columns)]
        blocks.append({"n": n, "lines": [{"arm": a, "cells": [c.get(a) for c in columns]} for a in known]})
    return {"titles": [metric_title(m) for m in shown], "blocks": blocks}
