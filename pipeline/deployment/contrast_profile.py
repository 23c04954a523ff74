"""The contrast of the training cases in a few numbers: the shape of the histogram and the order of the tissues.

A profile is a few numbers of a case in standard deviations. The training cases are summarised by their mean and by the
largest distance of a case to the mean of the others, so that no case is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.options import Options

LEVELS = tuple(float(level) for level in np.linspace(0.02, 0.98, 25))
"""Quantiles that describe the shape of a histogram."""


class TrainingProfile(Options):
    """Profiles of the training cases."""

    mean: tuple[float, ...]
    """Mean of each number."""
    spread: float
    """Largest distance of a case to the mean of the others; 0 for one case."""

    @classmethod
    def of(cls, profiles: Sequence[Sequence[float]]) -> TrainingProfile:
        """Summarises the profiles of at least one case."""
        rows = np.asarray(profiles, dtype=np.float64)
        others = (rows.sum(axis=0) - rows) / max(len(rows) - 1, 1)
        spread = max(map(_distance, rows, others)) if len(rows) > 1 else 0.0
        return cls(mean=tuple(rows.mean(axis=0).tolist()), spread=spread)

    def distance(self, profile: Sequence[float]) -> float:
        """Mean absolute difference to the mean; for quantiles, the 1-Wasserstein distance of the histograms."""
        return _distance(np.asarray(profile), np.asarray(self.mean))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def tissue_profile(tissues: Mapping[str, float]) -> tuple[float, ...]:
    """Returns the means sorted by tissue name: a stored record comes back in another order."""
    return tuple(tissues[name] for name in sorted(tissues))


def white_over_grey(tissues: Mapping[str, float]) -> float:
    """Returns how much brighter white matter is than grey: unlike fluid, it varies only with the kind of scan."""
    return tissues["white"] - tissues["grey"]
