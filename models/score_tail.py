"""How unusual a score is among scores of a few scans: a percentile that no such scan had to reach.

The 99th percentile of eight scores does not exist among them. The scores are taken for draws from a normal
distribution with unknown mean and variance (their logarithms, where scores are positive lengths or errors). A further
draw then lies, in units of s √(1 + 1/n) from the mean, as Student's t with n − 1 degrees of freedom does. This
prediction limit is exact for any n: of further scans like these, one in a hundred lies beyond the 99th percentile on
average, and with few scans the limit is far out because little is known.

Source: Hahn and Meeker, "Statistical intervals", 1991, chapter 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_DEVIATION = 0.05
"""Least standard deviation of logarithms, 5 % of a score: a few scans may be alike by chance."""


@dataclass(frozen=True)
class ScoreTail:
    """The distribution of a score among scans like those of the training.

    Attributes:
        mean: of the scores, or of their logarithms.
        deviation: standard deviation of the same.
        count: independent scores: patients, not scans.
        logarithmic: whether it is that of logarithms.
        low: the smallest score.
        high: the largest.
    """

    mean: float
    deviation: float
    count: int
    logarithmic: bool
    low: float
    high: float

    @classmethod
    def of(cls, scores: Sequence[float], groups: Sequence[str], *, logarithmic: bool = True) -> ScoreTail:
        """Fits it to at least two scores, those of one group (patient) being one piece of evidence.

        Args:
            scores: of scans that whatever gave the scores had not seen.
            groups: patient of each.
            logarithmic: whether their logarithms are normal; they are positive then.
        """
        values = np.asarray([_value(score, logarithmic) for score in scores])
        deviation = float(values.std(ddof=1))
        floor = _LEAST_DEVIATION if logarithmic else _LEAST_DEVIATION * abs(float(values.mean()))
        count = len(set(groups))
        return cls(
            float(values.mean()),
            max(deviation, floor, 1e-12),
            count,
            logarithmic,
            float(min(scores)),
            float(max(scores)),
        )

    def percentile(self, score: float) -> float:
        """Returns the share of further scans like these that have a lower score, from 0 to 1."""
        from scipy.stats import t

        away = (_value(score, self.logarithmic) - self.mean) / (self.deviation * math.sqrt(1 + 1 / self.count))
        return float(t.cdf(away, self.count - 1))

    def limit(self, percentile: float) -> float:
        """Returns the score at a percentile below 1."""
        from scipy.stats import t

        away = float(t.ppf(percentile, self.count - 1)) * self.deviation * math.sqrt(1 + 1 / self.count)
        return math.exp(self.mean + away) if self.logarithmic else self.mean + away


def _value(score: float, logarithmic: bool) -> float:
    return math.log(max(score, 1e-12)) if logarithmic else score
