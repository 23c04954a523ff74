"""How honest probabilities are: likelihood, Brier score and calibration error near the boundary of the reference.

Far from the boundary nearly every voxel is certain and right, which would hide how good the probabilities are; so only
a band around the boundary of the reference counts, the same for all arms. What is predicted outside it is counted
apart. Sources: Brier 1950; expected calibration error in bins of equal mass, Naeini et al. 2015 and Nixon et al. 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.overlap import Mask
from pipeline.prediction.boundary_band import boundary_band

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class BandSample:
    """The voxels of one test case that lie near the reference boundary of any class.

    Attributes:
        case: name of the case.
        patient: whose case it is.
        probability: `[K + 1, M]`, background first; each at least the clamp, they sum to 1.
        classes: `[M]` reference class numbers, 0 for background.
        near: `[K, M]`, whether a voxel lies in the band of each foreground class.
        outside: `[K]` predicted voxels of each class outside its band where the reference has another class.
    """

    case: str
    patient: str
    probability: Numbers
    classes: NDArray[np.intp]
    near: Mask
    outside: tuple[int, ...]

    def with_probability(self, probability: Numbers) -> BandSample:
        """Returns the same voxels with other probabilities `[K + 1, M]`."""
        return replace(self, probability=probability)

    def of_class(self, number: int) -> tuple[Numbers, Mask]:
        """Probability and truth of one foreground class (from 1) in its own band, `[M_k]` each."""
        near = self.near[number - 1]
        return self.probability[number, near], self.classes[near] == number


def class_probabilities(foreground: NDArray[np.floating], clamp: float) -> Numbers:
    """Completes foreground probabilities by the background's and keeps all of them away from 0.

    Args:
        foreground: `[K, M]`, as stored.
        clamp: smallest probability of a class; the sum is brought back to 1 afterwards.

    Returns:
        `[K + 1, M]` float64, background first.
    """
    known = foreground.astype(np.float64)
    whole = np.concatenate([1 - known.sum(axis=0, keepdims=True), known])
    whole = np.clip(whole, clamp, 1.0)
    return whole / whole.sum(axis=0, keepdims=True)


def band_sample(
    foreground: NDArray[np.floating],
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    spacing: Sequence[float],
    *,
    case: str,
    patient: str,
    band: float,
    clamp: float,
) -> BandSample:
    """Takes the voxels of a case that calibration is measured on.

    Args:
        foreground: `[K, X, Y, Z]` probabilities of the foreground classes.
        prediction: `[X, Y, Z]` predicted class numbers.
        reference: `[X, Y, Z]` class numbers.
        spacing: mm between voxel centres along each axis.
        case: name of the case.
        patient: whose case it is.
        band: width in mm.
        clamp: smallest probability of a class.

    Returns:
        The voxels in the band of any class.
    """
    numbers = range(1, len(foreground) + 1)
    bands = [boundary_band(reference == k, spacing, band) for k in numbers]
    union = np.logical_or.reduce(bands)
    outside = tuple(int(np.count_nonzero((prediction == k) & (reference != k) & ~bands[k - 1])) for k in numbers)
    return BandSample(
        case,
        patient,
        class_probabilities(foreground[:, union], clamp),
        reference[union].astype(np.intp),
        np.stack([b[union] for b in bands]),
        outside,
    )


def negative_log_likelihood(probability: Numbers, truth: Mask) -> float:
    """Returns the mean of `−log p(truth)` in nats over `[M]` voxels of one class against the rest; NaN without any."""
    if not len(probability):
        return math.nan
    return float(-np.log(np.where(truth, probability, 1 - probability)).mean())


def brier_score(probability: Numbers, truth: Mask) -> float:
    """Returns the mean of `(p − y)²` over `[M]` voxels, in [0, 1]; NaN without any."""
    return float(np.mean((probability - truth) ** 2)) if len(probability) else math.nan


def expected_calibration_error(probability: Numbers, truth: Mask, bins: int = 15) -> float:
    """Returns the expected calibration error of p(foreground) in bins of equal mass.

    Voxels of one probability are never parted, because the value would then depend on their order; so bins hold equal
    mass only as far as ties allow.

    Args:
        probability: `[M]`.
        truth: `[M]`, boolean.
        bins: number of bins.

    Returns:
        `Σ_b (M_b / M) |mean truth − mean probability|`, in [0, 1]; NaN without voxels.
    """
    if not len(probability):
        return math.nan
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins, method="inverted_cdf"))
    where = np.searchsorted(edges, probability, side="left")
    gap = np.bincount(where, weights=truth - probability, minlength=len(edges) + 1)
    return float(np.abs(gap).sum() / len(probability))


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability curve.

    Attributes:
        low: smallest probability of the bin.
        high: largest.
        share: of all voxels, patients weighing the same.
        probability: mean prediction.
        frequency: how often the voxels were foreground.
    """

    low: float
    high: float
    share: float
    probability: float
    frequency: float


def reliability_curve(patients: Sequence[tuple[Numbers, Mask]], bins: int = 15) -> list[ReliabilityBin]:
    """Gathers the reliability curve of several patients in bins of equal width.

    Args:
        patients: probability `[M_i]` and truth `[M_i]` of each; every patient weighs the same.
        bins: number of bins.

    Returns:
        The bins that hold a voxel, in order.
    """
    filled = [(p, t) for p, t in patients if len(p)]
    if not filled:
        return []
    weight, predicted, observed = (np.zeros(bins) for _ in range(3))
    for probability, truth in filled:
        where = np.minimum((probability * bins).astype(np.intp), bins - 1)
        size = len(probability) * len(filled)
        weight += np.bincount(where, minlength=bins) / size
        predicted += np.bincount(where, weights=probability, minlength=bins) / size
        observed += np.bincount(where, weights=truth, minlength=bins) / size
    return [
        ReliabilityBin(
            b / bins, (b + 1) / bins, float(weight[b]), float(predicted[b] / weight[b]), float(observed[b] / weight[b])
        )
        for b in np.flatnonzero(weight).tolist()
    ]
