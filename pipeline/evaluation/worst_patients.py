"""How bad it gets: the mean over the worst tenth of patients (the lower tail, or expected shortfall, of a metric)."""

from __future__ import annotations

import math

import numpy as np

from pipeline.evaluation.statistics import Interval, Resamples, Values, grouped_means, why_no_interval

WORST_SHARE = 0.1


def patients_in_worst_tenth(patients: int) -> int:
    """⌈P / 10⌉: how many of P measured patients the worst tenth holds."""
    return math.ceil(WORST_SHARE * patients - 1e-9)


def worst_tenth(values: Values, draws: Resamples, *, confidence: float = 0.95) -> Interval:
    """Returns the mean of the worst tenth of patients and its percentile interval over patients × repeats.

    A patient's value is the mean over the repeats. Of P measured patients the ⌈P / 10⌉ with the lowest values count, so
    with up to ten patients it is the worst one. A bootstrap never draws a patient worse than the worst, so the interval
    of a tail of one or two begins at the estimate itself: the tail has to hold as many patients as any mean needs.

    Args:
        values: `[P, R]` of a metric of which more is better; NaN where not measured.
        draws: the draws shared by all arms.
        confidence: coverage of the interval.

    Returns:
        The mean over the tail, and the interval; its ends are NaN with too few patients in the tail.
    """
    patients, repeats = np.nonzero(np.isfinite(values))
    if not len(patients):
        return Interval(math.nan, math.nan, math.nan)
    means = grouped_means(values[patients, repeats], patients, len(values))
    count = patients_in_worst_tenth(int(np.isfinite(means).sum()))
    worst = float(np.sort(means)[:count].mean())
    if why_no_interval(count):
        return Interval(worst, math.nan, math.nan)
    drawn = patient_means(values, draws)
    # NaN sorts last, so a patient that was not measured is never among the worst.
    tails = np.sort(drawn, axis=1)[:, :count]
    measured = np.isfinite(tails)
    totals = np.where(measured, tails, 0.0).sum(axis=1)
    tail_means = np.divide(totals, measured.sum(axis=1), out=np.full(len(tails), np.nan), where=measured.any(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(tail_means, [tail, 1 - tail])
    return Interval(worst, float(low), float(high))


def patient_means(values: Values, draws: Resamples) -> Values:
    """Averages each drawn patient over the drawn repeats.

    Args:
        values: `[P, R]`; NaN where not measured.
        draws: S draws of P patients and R repeats.

    Returns:
        `[S, P]`, a row for each resample with its drawn patients, some of them several times; NaN for a patient that
        was measured in none of the drawn repeats.
    """
    measured = np.isfinite(values)
    totals = draws.repeats @ np.where(measured, values, 0.0).T
    weights = draws.repeats @ measured.T.astype(np.float64)
    means = np.divide(totals, weights, out=np.full_like(totals, np.nan), where=weights > 0)
    return np.take_along_axis(means, draws.patient_indices(), axis=1)
