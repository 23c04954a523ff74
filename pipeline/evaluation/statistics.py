"""Intervals and tests over patients: bootstrap, paired differences, p-values with Holm's correction.

The sampling unit is the patient. Patients and repeats (subset draws, seeds) are crossed, not nested: a bootstrap
resample draws patients and, independently, repeats, and every arm is measured on the same draw (Owen 2007, "The
pigeonhole bootstrap"), so that intervals of differences between arms are paired. Holm 1979 for the family of arms.

In cross-validation, models of different folds learn from largely the same patients, so their scores are no independent
trials and a plain bootstrap promises too much (Bates, Hastie, Tibshirani 2024, "Cross-validation: what does it estimate
and how well does it do it?"). The variance is inflated as Nadeau and Bengio 2003, "Inference for the generalization
error", do for K test sets of n₂ cases and training sets of n₁: 1/K + n₂/n₁ in place of 1/K. With n₂/n₁ = 1/(K − 1)
that is a factor 1 + K/(K − 1), between 2 and 3. A resample draws that many times fewer patients, which has the same
effect on the variance of a mean and keeps every statistic within its bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from data.random_streams import random_stream
from pipeline.evaluation.crossed_effects import crossed_mean

FEWEST_PATIENTS_FOR_P = 12
"""With fewer test patients than this only effects and intervals are given, no p-value."""

TOO_FEW = "too few for an interval"
FEWEST_PATIENTS_FOR_INTERVAL = 5
"""With fewer test patients than this means are given alone: a bootstrap of one patient always draws that patient, and
one of two to four has so few different draws that its percentiles are the patients themselves."""

FEWEST_PATIENTS_FOR_LINE = 8
"""The slope of a line through fewer test patients is mostly noise: they tell a mean shift alone."""

CLEAR_ERRORS = 2.0
"""A mean that is further from zero than so many of its standard errors is told from zero."""

_MOST_FOR_ENUMERATION = 16
"""With ties, up to so many patients the signed-rank test enumerates all signs (65,536 patterns)."""

Values = NDArray[np.float64]


def why_no_interval(patients: int) -> str | None:
    """Says why so few test patients give neither an interval nor a difference between arms.

    The one rule of tables, figures, text and JSON.

    Args:
        patients: test patients that were measured.

    Returns:
        The reason in words; None where there are enough.
    """
    if patients >= FEWEST_PATIENTS_FOR_INTERVAL:
        return None
    return f"{patients} test patient{'s are' if patients != 1 else ' is'} {TOO_FEW}"


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap percentile interval.

    All NaN where there was nothing to average, the ends NaN where `why_no_interval` has a reason.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """How often each patient and each repeat was drawn, the same for every arm.

    Attributes:
        patients: `[S, P]`; each row sums to P, in cross-validation to `patients_drawn(P, K)`.
        repeats: `[S, R]`; each row sums to R.
        folds: K of a cross-validation; `None` where the test patients are no training patients.
    """

    patients: Values
    repeats: Values
    folds: int | None = None

    @classmethod
    def draw(cls, patients: int, repeats: int, *, resamples: int, seed: int, folds: int | None = None) -> Resamples:
        """Draws patients and repeats with replacement, independently of each other.

        Args:
            patients: number of patients P.
            repeats: number of repeats R.
            resamples: number of draws S.
            seed: of the study; the same seed and sizes give the same draws.
            folds: K of a cross-validation.

        Returns:
            The draws as counts.

        Raises:
            ValueError: a size is below one.
        """
        if min(patients, repeats, resamples) < 1:
            raise ValueError(f"cannot resample {patients} patients and {repeats} repeats {resamples} times")
        by_patient = random_stream(seed, "evaluation", "bootstrap", "patients")
        by_repeat = random_stream(seed, "evaluation", "bootstrap", "repeats")
        drawn = patients_drawn(patients, folds)
        return cls(
            by_patient.multinomial(drawn, np.full(patients, 1 / patients), size=resamples).astype(np.float64),
            by_repeat.multinomial(repeats, np.full(repeats, 1 / repeats), size=resamples).astype(np.float64),
            folds,
        )

    def patient_indices(self) -> NDArray[np.intp]:
        """Returns indices of the drawn patients of each resample `[S, …]`, a patient as often as it was drawn."""
        count, patients = self.patients.shape
        everyone = np.tile(np.arange(patients, dtype=np.intp), count)
        return np.repeat(everyone, self.patients.ravel().astype(np.intp)).reshape(count, -1)

    def means(self, values: Values) -> Values:
        """Averages one arm in every resample.

        Args:
            values: `[P, R]`; NaN where a patient was not measured in a repeat, which leaves the cell out.

        Returns:
            `[S]`; NaN where a resample holds no measured cell.

        Raises:
            ValueError: the values are of another size than the draws.
        """
        if values.shape != (self.patients.shape[1], self.repeats.shape[1]):
            size = (self.patients.shape[1], self.repeats.shape[1])
            raise ValueError(f"the draws are of {size} patients × repeats, the values of {values.shape}")
        measured = np.isfinite(values)
        total = np.sum((self.patients @ np.where(measured, values, 0.0)) * self.repeats, axis=1)
        weight = np.sum((self.patients @ measured.astype(np.float64)) * self.repeats, axis=1)
        return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def patients_drawn(patients: int, folds: int | None) -> int:
    """Number of patients in a bootstrap resample.

    Args:
        patients: P.
        folds: K of a cross-validation; `None` where no test patient is a training patient of another's models.

    Returns:
        P, or in cross-validation ⌊P / (1 + K / (K − 1))⌋, at least 2.
    """
    return patients if folds is None else min(patients, max(2, int(patients / (1 + folds / (folds - 1)))))


def crossed_interval(values: Values, draws: Resamples, *, confidence: float = 0.95) -> Interval:
    """Returns the mean of `[P, R]` values and its percentile interval over patients × repeats.

    Args:
        values: `[P, R]`, cases of a patient averaged before; NaN where not measured.
        draws: the draws shared by all arms.
        confidence: coverage of the interval.

    Returns:
        Mean over all measured cells, and the interval; its ends are NaN with too few patients.
    """
    measured = np.isfinite(values)
    if not measured.any():
        return Interval(np.nan, np.nan, np.nan)
    if why_no_interval(measured_patients(values)):
        return Interval(float(values[measured].mean()), np.nan, np.nan)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws.means(values), [tail, 1 - tail])
    return Interval(float(values[measured].mean()), float(low), float(high))


def measured_patients(values: Values) -> int:
    """Number of patients of `[P, R]` values that were measured in any repeat."""
    return int(np.isfinite(values).any(axis=1).sum())


def grouped_means(values: Values, owner: NDArray[np.integer], groups: int | None = None) -> Values:
    """Averages values by group, leaving NaN out.

    Args:
        values: `[N]`.
        owner: `[N]`, index of the group of each value.
        groups: number of groups G, if some may have no value.

    Returns:
        `[G]`; NaN for a group without a value.
    """
    measured = np.isfinite(values)
    size = groups if groups is not None else (int(owner.max()) + 1 if len(owner) else 0)
    total = np.bincount(owner[measured], weights=values[measured], minlength=size)
    count = np.bincount(owner[measured], minlength=size)
    return np.divide(total, count, out=np.full(size, np.nan), where=count > 0)


@dataclass(frozen=True)
class PairedDifference:
    """One arm minus another on the same patients and repeats.

    Attributes:
        interval: mean difference and its interval; all NaN with too few patients, whose mean difference alone would be
            read as a finding.
        patients: number of patients measured in both arms.
        p_value: two-sided, of `crossed_effects` with several repeats; with one, a Wilcoxon signed-rank test, which
            speaks for this one draw of training patients. None with too few patients, and in cross-validation, where
            patients are no independent trials.
    """

    interval: Interval
    patients: int
    p_value: float | None


def paired_difference(first: Values, second: Values, draws: Resamples, *, confidence: float = 0.95) -> PairedDifference:
    """Compares two arms cell by cell.

    With several repeats, interval and p-value are those of patients and repeats as crossed random effects, over the
    patients measured in every repeat. With one repeat, and in cross-validation, the interval is that of the bootstrap.

    Args:
        first: `[P, R]`.
        second: `[P, R]`, same patients and repeats in the same order; only cells measured in both count.
        draws: the draws shared by all arms.
        confidence: coverage of the interval.

    Returns:
        The difference `first − second`.
    """
    difference = first - second
    cells = np.isfinite(difference)
    per_patient = grouped_means(difference[cells], np.nonzero(cells)[0], len(difference))
    per_patient = per_patient[np.isfinite(per_patient)]
    if why_no_interval(len(per_patient)):
        return PairedDifference(Interval(np.nan, np.nan, np.nan), len(per_patient), None)
    whole = difference[cells.all(axis=1)]
    if draws.folds is None and difference.shape[1] > 1 and not why_no_interval(len(whole)):
        found = crossed_mean(whole)
        p_value = found.p_value if len(whole) >= FEWEST_PATIENTS_FOR_P else None
        return PairedDifference(Interval(found.mean, *found.interval(confidence)), len(whole), p_value)
    p_value = wilcoxon_p(per_patient) if draws.folds is None and difference.shape[1] == 1 else None
    return PairedDifference(crossed_interval(difference, draws, confidence=confidence), len(per_patient), p_value)


def wilcoxon_p(differences: Values) -> float | None:
    """Returns the two-sided Wilcoxon signed-rank p-value of `[P]` differences.

    Returns:
        None with fewer than `FEWEST_PATIENTS_FOR_P` patients; 1 where every difference is zero.
    """
    if len(differences) < FEWEST_PATIENTS_FOR_P:
        return None
    if not np.any(differences):
        return 1.0
    sizes = np.abs(differences)
    tied = len(np.unique(sizes)) < len(sizes) or not sizes.all()
    if tied and len(differences) <= _MOST_FOR_ENUMERATION:
        return _enumerated_p(differences)
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def _enumerated_p(differences: Values) -> float:
    """Exact two-sided p-value over all sign patterns; ties allowed, zeros take part in the ranking (Pratt 1959)."""
    ranks = stats.rankdata(np.abs(differences))[differences != 0]
    patterns = np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1
    # Sums of half-integer ranks are exact in floating point, so equality may be tested.
    away = np.abs(2 * (patterns @ ranks) - ranks.sum())
    observed = abs(2 * ranks[differences[differences != 0] > 0].sum() - ranks.sum())
    return float(np.mean(away >= observed))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts p-values of a family by Holm's step-down method (Holm 1979).

    Args:
        p_values: raw p-values; None where no test was made, which does not count in the family.

    Returns:
        Adjusted p-values in the same order, at most 1.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, index) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = running
    return adjusted
