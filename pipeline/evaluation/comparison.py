"""Every arm against the best non-Bayesian rival, paired over patients and repeats."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.statistics import PairedDifference, Resamples, holm, paired_difference
from pipeline.evaluation.tables import StudyRows

NON_BAYESIAN_ARMS = ("random", "fine_tune", "fine_tune_l2sp", "fine_tune_ends", "frozen_encoder", "ensemble")
"""Presets that learn without a filter prior and predict with point estimates."""


@dataclass(frozen=True)
class Comparison:
    """One arm minus the rival at one size.

    Attributes:
        arm: preset name.
        rival: the non-Bayesian arm with the highest mean at this size.
        n: number of target patients.
        metric: name of the metric.
        difference: paired, `arm − rival`, with its interval; its p-value is raw.
        p_holm: p-value after Holm's correction over the arms of this size; None with too few patients.
    """

    arm: str
    rival: str
    n: int
    metric: str
    difference: PairedDifference
    p_holm: float | None = None


def best_rival(study: StudyRows, metric: str, n: int, rivals: Collection[str] = NON_BAYESIAN_ARMS) -> str | None:
    """Returns the rival with the highest mean of a metric at one size, or None where no rival was run.

    It is chosen on the very patients it is then compared on, which favours the rival, never the arm compared with it.
    """
    table = study.table(metric, n)
    means = {
        arm: float(np.nanmean(table.of(arm)))
        for arm in table.arms
        if arm in rivals and np.isfinite(table.of(arm)).any()
    }
    return max(means, key=lambda arm: means[arm]) if means else None


def compare_arms(
    study: StudyRows,
    draws: Resamples,
    *,
    metric: str = "dice",
    rivals: Collection[str] = NON_BAYESIAN_ARMS,
) -> list[Comparison]:
    """Compares every arm with the best rival of its size.

    Args:
        study: all rows.
        draws: shared draws of `study.draws`.
        metric: a metric of which more is better.
        rivals: names of the arms that may be the rival.

    Returns:
        One comparison per arm and size, the rival itself left out; empty where no rival was run.
    """
    comparisons: list[Comparison] = []
    for n in study.sizes:
        rival = best_rival(study, metric, n, rivals)
        if rival is None:
            continue
        table = study.table(metric, n)
        family = [
            Comparison(arm, rival, n, metric, paired_difference(table.of(arm), table.of(rival), draws))
            for arm in table.arms
            if arm != rival
        ]
        adjusted = holm([c.difference.p_value for c in family])
        comparisons += [replace(c, p_holm=p) for c, p in zip(family, adjusted, strict=True)]
    return comparisons
