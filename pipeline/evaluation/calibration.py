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

from models.heads import IGNORED, Heads
from pipeline.metrics.overlap import Mask
from pipeline.prediction.boundary_band import boundary_band

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class BandSample:
    """The voxels of one test case that lie near the reference boundary of any class.

    Attributes:
        case: name of the case.
        patient: whose case it is.
        probability: `[C, M]` of the channels of `heads`, none nearer to 0 than the clamp.
        classes: `[M]` reference codes of `heads`, 0 for background.
        near: `[K, M]`, whether a voxel lies in the band of each structure.
        outside: `[K]` predicted voxels of each structure outside its band where the reference does not have it.
        heads: what channels and codes stand for.
    """

    case: str
    patient: str
    probability: Numbers
    classes: NDArray[np.intp]
    near: Mask
    outside: tuple[int, ...]
    heads: Heads = Heads.EXCLUSIVE

    def with_probability(self, probability: Numbers) -> BandSample:
        """Returns the same voxels with other probabilities `[C, M]`."""
        return replace(self, probability=probability)

    def of_class(self, number: int) -> tuple[Numbers, Mask]:
        """Probability and truth of one structure (from 1) in its own band, `[M_k]` each."""
        near = self.near[number - 1]
        return self.heads.of_structure(self.probability, number)[near], self.heads.belongs(self.classes[near], number)

    def choices(self) -> list[tuple[Numbers, NDArray[np.intp]]]:
        """What is chosen in each voxel: one of the classes or, for each overlapping structure, whether it is there.

        Returns:
            Probabilities `[A, M]` of A alternatives and the number `[M]` of the true one (from 0), for each choice.
        """
        if self.heads is Heads.EXCLUSIVE:
            return [(self.probability, self.classes)]
        return [
            (np.stack([1 - own, own]), self.heads.belongs(self.classes, number).astype(np.intp))
            for number, own in enumerate(self.probability, start=1)
        ]


def class_probabilities(foreground: NDArray[np.floating], clamp: float, heads: Heads = Heads.EXCLUSIVE) -> Numbers:
    """Completes foreground probabilities by the background's, where it has a channel, and keeps them away from 0.

    Args:
        foreground: `[K, M]`, as stored.
        clamp: smallest probability of a class; the sum is brought back to 1 afterwards. With overlapping structures,
            smallest probability of being or not being there.
        heads: what the channels stand for.

    Returns:
        `[C, M]` float64.
    """
    known = foreground.astype(np.float64)
    if heads is Heads.OVERLAPPING:
        return np.clip(known, clamp, 1 - clamp)
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
    heads: Heads = Heads.EXCLUSIVE,
) -> BandSample:
    """Takes the voxels of a case that calibration is measured on.

    Args:
        foreground: `[K, X, Y, Z]` probabilities of the foreground classes.
        prediction: `[X, Y, Z]` predicted codes of `heads`.
        reference: `[X, Y, Z]` codes; voxels that are not annotated are left out.
        spacing: mm between voxel centres along each axis.
        case: name of the case.
        patient: whose case it is.
        band: width in mm.
        clamp: smallest probability of a class.
        heads: what channels and codes stand for.

    Returns:
        The voxels in the band of any structure.
    """
    numbers = range(1, len(foreground) + 1)
    annotated = reference != IGNORED
    bands = [boundary_band(heads.belongs(reference, k), spacing, band) & annotated for k in numbers]
    union = np.logical_or.reduce(bands)
    outside = tuple(
        int(np.count_nonzero(heads.belongs(prediction, k) & ~heads.belongs(reference, k) & annotated & ~bands[k - 1]))
        for k in numbers
    )
    return BandSample(
        case,
        patient,
        class_probabilities(foreground[:, union], clamp, heads),
        reference[union].astype(np.intp),
        np.stack([b[union] for b in bands]),
        outside,
        heads,
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
