"""Which cases to review: how uncertain a prediction looks, against how good it turned out to be.

All that is measured here needs no reference, because there is none when a case is chosen for review.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.heads import Heads
from pipeline.evaluation.calibration import class_probabilities
from pipeline.evaluation.statistics import Interval, Resamples, Values, measured_patients, why_no_interval
from pipeline.prediction.boundary_band import boundary_band
from pipeline.prediction.expected_dice import expected_dice


@dataclass(frozen=True)
class PredictedUncertainty:
    """How uncertain the prediction of one class of one case looks.

    Attributes:
        entropy: mean predictive entropy in nats near the predicted boundary; NaN where nothing was predicted.
        mutual_information: mean mutual information in nats there; NaN also where there is only one draw.
        expected_dice: Dice of the predicted mask that the probabilities promise; 0 where nothing was predicted.
    """

    entropy: float
    mutual_information: float
    expected_dice: float


def predicted_uncertainty(
    foreground: NDArray[np.floating],
    prediction: NDArray[np.integer],
    mutual_information: NDArray[np.floating] | None,
    number: int,
    spacing: Sequence[float],
    *,
    band: float,
    clamp: float,
    heads: Heads = Heads.EXCLUSIVE,
) -> PredictedUncertainty:
    """Measures the uncertainty of one predicted class.

    The mean is over a band around the predicted boundary. Over the whole structure it would mostly measure its size.

    Args:
        foreground: `[K, X, Y, Z]` probabilities of the foreground classes.
        prediction: `[X, Y, Z]` predicted codes of `heads`.
        mutual_information: `[X, Y, Z]` in nats, or None.
        number: of the class, from 1.
        spacing: mm between voxel centres along each axis.
        band: width of the band in mm; the expected Dice has its own, as `predict` has.
        clamp: smallest probability of a class.
        heads: what channels and codes stand for.

    Returns:
        The three measures.
    """
    mask = heads.belongs(prediction, number)
    near = boundary_band(mask, spacing, band)
    entropy = information = math.nan
    if near.any():
        probability = heads.alternatives(class_probabilities(foreground[:, near], clamp, heads))
        entropy = float(-(probability * np.log(probability)).sum(axis=0).mean())
        if mutual_information is not None:
            information = float(mutual_information[near].astype(np.float64).mean())
    promised = expected_dice(foreground[number - 1], mask, spacing) if mask.any() else 0.0
    return PredictedUncertainty(entropy, information, promised)


def rank_correlation(uncertainty: Values, quality: Values, draws: Resamples, *, confidence: float = 0.95) -> Interval:
    """Correlates uncertainty with quality over patients (Spearman), within each repeat, and averages the repeats.

    Each repeat is one trained network, and that is what a user has. An empty prediction has no boundary whose
    uncertainty could be measured; it ranks as the most uncertain, so that it is never left out.

    Args:
        uncertainty: `[P, R]`; NaN ranks as the most uncertain where `quality` is defined.
        quality: `[P, R]`, such as Dice; NaN where not measured.
        draws: the draws shared by all arms.
        confidence: coverage of the interval.

    Returns:
        Correlation and percentile interval over patients × repeats; −1 is best: the most uncertain are the worst (for
        a promise, such as expected Dice, 1). NaN without any uncertainty, or with too few patients for an interval.
    """
    nothing = Interval(math.nan, math.nan, math.nan)
    measured = np.isfinite(quality)
    if why_no_interval(measured_patients(quality)) or not np.isfinite(uncertainty).any():
        return nothing
    doubt = np.where(measured, np.where(np.isfinite(uncertainty), uncertainty, np.inf), np.nan)
    whole = [_spearman(doubt[None, :, r], quality[None, :, r])[0] for r in range(quality.shape[1])]
    if not np.isfinite(whole).any():
        return nothing
    everywhere = _drawn_correlations(doubt, quality, draws)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(everywhere, [tail, 1 - tail])
    return Interval(float(np.nanmean(whole)), float(low), float(high))


def _drawn_correlations(doubt: Values, quality: Values, draws: Resamples) -> Values:
    """Correlation in every resample `[S]`, averaged over the drawn repeats; NaN where none is defined."""
    indices = draws.patient_indices()
    total, weight = np.zeros(len(indices)), np.zeros(len(indices))
    for repeat in range(quality.shape[1]):
        found = _spearman(doubt[indices, repeat], quality[indices, repeat])
        defined = np.isfinite(found)
        total += np.where(defined, found, 0.0) * draws.repeats[:, repeat]
        weight += defined * draws.repeats[:, repeat]
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)


def _spearman(first: Values, second: Values) -> Values:
    """Row by row over `[S, P]`, pairs with a NaN left out; NaN where one side is constant."""
    missing = np.isnan(first) | np.isnan(second)
    policy: Literal["omit", "propagate"] = "omit" if missing.any() else "propagate"
    ranks = []
    for values in (first, second):
        ranked = stats.rankdata(np.where(missing, np.nan, values), axis=1, nan_policy=policy)
        centred = ranked - np.nanmean(np.where(missing.all(axis=1, keepdims=True), 0.0, ranked), axis=1, keepdims=True)
        ranks.append(np.where(missing, 0.0, centred))
    size = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return np.divide((ranks[0] * ranks[1]).sum(axis=1), size, out=np.full(len(size), np.nan), where=size > 0)
