"""Volume intervals from posterior draws, and whether they hold the true volume as often as they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.evaluation.statistics import Interval
from pipeline.prediction.correlated_volume import LEVEL


@dataclass(frozen=True)
class VolumeInterval:
    """An interval of a volume.

    Attributes:
        low: in ml.
        high: in ml.
        nominal: the coverage that it promises, at least what was asked for: between two order statistics of draws, that
            of exchangeable truth and draws.
    """

    low: float
    high: float
    nominal: float

    @property
    def width(self) -> float:
        """In ml."""
        return self.high - self.low

    def covers(self, volume: float) -> bool:
        """Whether a volume in ml lies inside, ends included."""
        return self.low <= volume <= self.high


def volume_interval(draws: NDArray[np.floating], level: float = LEVEL) -> VolumeInterval | None:
    """Takes the narrowest central interval of order statistics whose coverage is at least `level`.

    Between the i-th smallest and i-th largest of S draws lies a further, exchangeable one with probability
    `(S + 1 − 2i) / (S + 1)`: for 39 draws and 90 % the 2nd and the 38th.

    Args:
        draws: `[S]` volumes in ml.
        level: coverage.

    Returns:
        The interval, or None with too few draws (19 are the least for 90 %).
    """
    count = len(draws)
    rank = math.floor((1 - level) / 2 * (count + 1) + 1e-9)
    if rank < 1:
        return None
    ordered = np.sort(np.asarray(draws, dtype=np.float64))
    return VolumeInterval(float(ordered[rank - 1]), float(ordered[-rank]), (count + 1 - 2 * rank) / (count + 1))


def coverage_interval(covered: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Returns a coverage with its binomial interval (Clopper and Pearson 1934).

    Args:
        covered: successes; with several repeats or cases of a patient their mean is no whole number, and the beta
            quantiles that define the interval still apply.
        trials: number of patients: repeats on the same patients are no independent trials.
        confidence: coverage of the interval itself.

    Returns:
        Share and interval; NaN without trials.
    """
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, covered, trials - covered + 1)) if covered > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, covered + 1, trials - covered)) if covered < trials else 1.0
    return Interval(covered / trials, low, high)
