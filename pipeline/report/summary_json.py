"""The numbers of a study for machines: `results/summary.json`."""

from __future__ import annotations

import math
from typing import Any

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.statistics import Interval, why_no_interval
from pipeline.report.section import Material
from pipeline.report.verdict import told_apart

FORMAT = 2
"""Version of the file; raised when a key changes its meaning or goes."""
_PROVENANCE = {"graft_version", "git_commit", "command", "seed", "started", "finished", "machine", "versions", "inputs"}


def study_summary(material: Material) -> dict[str, Any]:
    """Gathers arms, sizes, metrics with intervals, paired differences and provenance.

    Returns:
        A JSON-able mapping; `null` stands for what is undefined, as an empty field does in `summary.csv`. Where there
        is no interval, `no_interval` says why.
    """
    files, study = material.files, material.files.study
    provenance = files.provenance.as_json() if files.provenance else {}
    return {
        "format": FORMAT,
        "name": files.setting("name"),
        "title": files.setting("title"),
        "arms": files.arms(),
        "sizes": sorted({row.n for row in files.summary}),
        "repeats": len(study.repeats) if study else None,
        "test_patients": len(study.patients) if study else None,
        "metrics": [
            {
                "arm": row.arm,
                "n": row.n,
                "metric": row.metric,
                "mean": _number(row.mean),
                "interval": _ends(Interval(row.mean, row.ci_low, row.ci_high)),
                "no_interval": row.no_interval,
                "cases": row.cases,
            }
            for row in files.summary
        ],
        "differences": [_difference(c) for c in files.comparisons],
        "told_apart": [
            {
                "n": best.n,
                "arm": best.arm,
                "ahead_of": [lead.other for lead in best.behind()],
                "not_told_from": [lead.other for lead in best.not_told_apart()],
                "not_compared_with": [lead.other for lead in best.not_compared()],
                "sentence": told_apart(best),
            }
            for best in files.leading
        ],
        "bootstrap": {"confidence": 0.95, "resamples": files.table_settings.resamples, "unit": "patients × repeats"},
        "provenance": {key: value for key, value in provenance.items() if key in _PROVENANCE},
    }


def _difference(comparison: Comparison) -> dict[str, Any]:
    return {
        "arm": comparison.arm,
        "rival": comparison.rival,
        "n": comparison.n,
        "metric": comparison.metric,
        "mean": _number(comparison.difference),
        "interval": _ends(comparison.interval),
        "no_interval": why_no_interval(comparison.patients),
        "patients": comparison.patients,
        "p_wilcoxon": _number(comparison.p_value),
        "p_holm": _number(comparison.p_holm),
    }


def _ends(interval: Interval) -> list[float] | None:
    return [interval.low, interval.high] if math.isfinite(interval.low) and math.isfinite(interval.high) else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
