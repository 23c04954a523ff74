"""The numbers of a study for machines: `results/summary.json`."""

from __future__ import annotations

import math
from typing import Any

from pipeline.evaluation.comparison import Comparison, compare_arms
from pipeline.report.section import Material

FORMAT = 1
"""Version of the file; raised when a key changes its meaning or goes."""
_PROVENANCE = ("graft_version", "git_commit", "command", "seed", "started", "finished", "machine", "versions", "inputs")


def study_summary(material: Material) -> dict[str, Any]:
    """Gathers arms, sizes, metrics with intervals, paired differences and provenance.

    Returns:
        A JSON-able mapping; `null` stands for what is undefined, as an empty field does in `summary.csv`.
    """
    files, study = material.files, material.files.study
    comparisons: list[Comparison] = []
    if study is not None:
        draws = study.draws(seed=files.seed, resamples=material.options.resamples)
        comparisons = compare_arms(study, draws, rivals=material.rivals())
    return {
        "format": FORMAT,
        "name": files.config.get("name"),
        "title": files.config.get("title"),
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
                "interval": [_number(row.ci_low), _number(row.ci_high)],
                "cases": row.cases,
            }
            for row in files.summary
        ],
        "differences": [_difference(c) for c in comparisons],
        "bootstrap": {"confidence": 0.95, "resamples": material.options.resamples, "unit": "patients × repeats"},
        "provenance": {key: files.provenance[key] for key in _PROVENANCE if key in files.provenance},
    }


def _difference(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "arm": comparison.arm,
        "rival": comparison.rival,
        "n": comparison.n,
        "metric": comparison.metric,
        "mean": _number(difference.interval.mean),
        "interval": [_number(difference.interval.low), _number(difference.interval.high)],
        "patients": difference.patients,
        "p_wilcoxon": difference.p_value,
        "p_holm": comparison.p_holm,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
