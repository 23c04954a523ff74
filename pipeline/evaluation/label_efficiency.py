"""Label efficiency: how many patients training from scratch would have needed for the same mean Dice.

An arm that learned from n patients reaches some mean Dice. The learning curve of `random` is fitted by isotonic
regression of its mean Dice in log n (more patients never hurt), and m is where it reaches that Dice; the efficiency is
m / n, which has no meaning for a model of n = 0. Where the curve never gets there, all that is known is that it is more
than m_max / n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from pipeline.arms.presets import REFERENCE_ARM
from pipeline.evaluation.statistics import Resamples, Values, measured_patients, why_no_interval
from pipeline.evaluation.tables import RowT, StudyRows


@dataclass(frozen=True)
class LabelEfficiency:
    """How much the annotations of one arm at one size are worth.

    A factor beyond the sizes that the baseline was run at is a bound, not a number: its relation is then `>` or `<`.

    Attributes:
        arm: preset name.
        n: number of target patients it learned from.
        value: mean of the metric.
        patients: m, the patients that the baseline needs; at a bound its largest or smallest size.
        efficiency: m / n.
        relation: `=`, `>` or `<`: how the true factor relates to `efficiency`.
        ci_low: lower end of the bootstrap interval.
        low_relation: `=`, `>` or `<`.
        ci_high: upper end.
        high_relation: `=`, `>` or `<`.
    """

    arm: str
    n: int
    value: float
    patients: float
    efficiency: float
    relation: str
    ci_low: float
    low_relation: str
    ci_high: float
    high_relation: str


def patients_needed(sizes: Sequence[int], curve: Values, targets: Values) -> Values:
    """Finds the number of patients at which learning curves reach targets.

    Args:
        sizes: `[J]` increasing numbers of patients.
        curve: `[S, J]` mean of the baseline at each size.
        targets: `[S]` values to be reached.

    Returns:
        `[S]`: m, linear in log n between the fitted sizes and the smallest one where the fit is flat; infinity where
        the target lies above the whole fit, 0 where below; NaN where a mean is missing.
    """
    logs = np.log(np.asarray(sizes, dtype=np.float64))
    needed = np.full(len(targets), np.nan)
    for place, (means, target) in enumerate(zip(curve, targets, strict=True)):
        if np.isfinite(target) and np.isfinite(means).all():
            needed[place] = _reached(logs, isotonic_regression(means).x, float(target))
    return needed


def _reached(logs: Values, fit: Values, target: float) -> float:
    tolerance = 1e-12
    if target > fit[-1] + tolerance:
        return math.inf
    if target < fit[0] - tolerance:
        return 0.0
    after = int(np.searchsorted(fit, target - tolerance, side="left"))
    if after == 0 or fit[after] - target <= tolerance:
        return float(np.exp(logs[after]))
    share = (target - fit[after - 1]) / (fit[after] - fit[after - 1])
    return float(np.exp(logs[after - 1] + share * (logs[after] - logs[after - 1])))


def why_no_efficiency(study: StudyRows[RowT], *, metric: str = "dice") -> str | None:
    """Says why no label efficiency can be measured: too few test patients, or the baseline has no curve; else None."""
    if len(_baseline_sizes(study, metric)) < 2:
        return f"it needs the learning curve of {REFERENCE_ARM}, which has fewer than two sizes"
    return why_no_interval(len(study.patients))


def _baseline_sizes(study: StudyRows[RowT], metric: str) -> list[int]:
    return [n for n in _learned_sizes(study) if np.isfinite(study.table(metric, n).means().get(REFERENCE_ARM, np.nan))]


def _learned_sizes(study: StudyRows[RowT]) -> list[int]:
    """Sizes with annotated patients."""
    return [n for n in study.every_size if n > 0]


def label_efficiencies(
    study: StudyRows[RowT], draws: Resamples, *, metric: str = "dice", confidence: float = 0.95
) -> list[LabelEfficiency]:
    """Measures the label efficiency of every arm at every size.

    The curve and the arm are measured on the same draw of patients and repeats, so their common ups and downs cancel.

    Args:
        study: all rows.
        draws: shared draws of `study.draws`.
        metric: a metric of which more is better.
        confidence: coverage of the interval.

    Returns:
        One entry for each arm and size but the baseline's and n = 0; empty where `why_no_efficiency` has a reason.
    """
    if why_no_efficiency(study, metric=metric):
        return []
    tables, sizes = {n: study.table(metric, n) for n in _learned_sizes(study)}, _baseline_sizes(study, metric)
    baseline = np.stack([_means(tables[n].of(REFERENCE_ARM), draws) for n in sizes], axis=1)
    found = []
    for n, table in tables.items():
        for arm in table.arms:
            values = table.of(arm)
            if arm != REFERENCE_ARM and why_no_interval(measured_patients(values)) is None:
                targets = _means(values, draws)
                needed = patients_needed(sizes, baseline, targets)
                found.append(_efficiency(arm, n, sizes, float(targets[0]), needed, confidence))
    return found


def _means(values: Values, draws: Resamples) -> Values:
    """The mean itself, then the means of all resamples: `[1 + S]`."""
    measured = values[np.isfinite(values)]
    return np.concatenate([[measured.mean()], draws.means(values)])


def _efficiency(
    arm: str, n: int, sizes: Sequence[int], value: float, needed: Values, confidence: float
) -> LabelEfficiency:
    resampled = np.sort(needed[1:][np.isfinite(needed[1:]) | np.isinf(needed[1:])])
    tail = (1 - confidence) / 2
    # Order statistics: between a number and infinity there is nothing to interpolate.
    ends = np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf") if len(resampled) else [math.nan, math.nan]
    patients, relation = _bounded(float(needed[0]), sizes)
    low, low_relation = _bounded(float(ends[0]), sizes)
    high, high_relation = _bounded(float(ends[1]), sizes)
    return LabelEfficiency(
        arm, n, value, patients, patients / n, relation, low / n, low_relation, high / n, high_relation
    )


def _bounded(needed: float, sizes: Sequence[int]) -> tuple[float, str]:
    """Turns what lies beyond the sizes into a bound."""
    if needed == math.inf:
        return float(sizes[-1]), ">"
    return (float(sizes[0]), "<") if needed == 0 else (needed, "=")
