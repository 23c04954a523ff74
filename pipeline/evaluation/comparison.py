"""Every arm against the best non-Bayesian rival, paired over patients and repeats."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipeline.arms.presets import PRESETS
from pipeline.arms.rivals import rivals
from pipeline.evaluation.arm_ranking import arms_that_segment, arms_with_patients_enough
from pipeline.evaluation.measure_titles import measure_of
from pipeline.evaluation.statistics import Interval, Resamples, holm, paired_difference
from pipeline.evaluation.tables import RowT, StudyRows

NON_BAYESIAN_ARMS = rivals(PRESETS)
"""Presets that learn without a filter prior and predict with point estimates."""


@dataclass(frozen=True)
class Comparison:
    """One arm minus the rival at one size: a row of `comparisons.csv`.

    Attributes:
        arm: preset name.
        rival: the non-Bayesian arm with the best mean of this metric at this size.
        n: number of target patients.
        metric: name of the metric.
        difference: mean of `arm − rival` over the cells measured in both; NaN with too few patients.
        ci_low: lower end of its 95 % interval over patients × repeats.
        ci_high: upper end.
        patients: number of patients measured in both arms.
        p_value: two-sided, as `paired_difference` tells; NaN with too few patients and in cross-validation.
        p_holm: after Holm's correction over the arms of this size and metric.
    """

    arm: str
    rival: str
    n: int
    metric: str
    difference: float
    ci_low: float
    ci_high: float
    patients: int
    p_value: float
    p_holm: float

    @property
    def interval(self) -> Interval:
        """The difference with its interval."""
        return Interval(self.difference, self.ci_low, self.ci_high)


def best_rival(
    study: StudyRows[RowT],
    metric: str,
    n: int,
    rivals: Collection[str] = NON_BAYESIAN_ARMS,
) -> str | None:
    """Returns the rival with the best mean of a metric at one size, or None where no rival was run.

    It is chosen on the very patients it is then compared on, which favours the rival, never the arm compared with it.
    In another metric than Dice, no rival counts that segments next to nothing, and none that was measured on too few
    patients where others were not.

    Args:
        study: all rows.
        metric: name of the metric.
        n: number of target patients.
        rivals: names of the arms that may be the rival.
    """
    table = study.table(metric, n)
    sign = -1 if measure_of(metric).less_is_better else 1
    means = {arm: sign * mean for arm, mean in table.means().items() if arm in rivals and np.isfinite(mean)}
    if not means:
        return None
    dice, patients = study.table("dice", n).means(), table.patients_measured()
    worthy = arms_that_segment({arm: dice.get(arm, np.nan) for arm in means})
    worthy &= arms_with_patients_enough({arm: patients[arm] for arm in worthy})
    return max((arm for arm in means if arm in worthy), key=lambda arm: means[arm])


def compare_arms(
    study: StudyRows[RowT],
    draws: Resamples,
    *,
    metric: str = "dice",
    rivals: Collection[str] = NON_BAYESIAN_ARMS,
) -> list[Comparison]:
    """Compares every arm with the best rival of its size.

    Args:
        study: all rows.
        draws: shared draws of `study.draws`.
        metric: name of the metric.
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
        family = {
            arm: paired_difference(table.of(arm), table.of(rival), draws)
            for arm in table.arms
            if arm != rival and np.isfinite(table.of(arm)).any()
        }
        adjusted = holm([difference.p_value for difference in family.values()])
        for (arm, found), p_holm in zip(family.items(), adjusted, strict=True):
            interval, (p, p_holm_or_nan) = found.interval, (np.nan if p is None else p for p in (found.p_value, p_holm))
            comparisons.append(
                Comparison(
                    arm, rival, n, metric, interval.mean, interval.low, interval.high, found.patients, p, p_holm_or_nan
                )
            )
    return comparisons
