"""Whether a scan has the contrast of the training cases: the form of its histogram, and the order of its tissues.

A profile is a few numbers of a case in standard deviations; the training cases are kept as their mean and the largest
distance of one of them to the mean of the others, so that no case is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from data.options import Options
from data.plain_number import plain_number

if TYPE_CHECKING:
    from pipeline.deployment.fingerprint import CaseFacts, TrainingFingerprint

LEVELS = tuple(float(level) for level in np.linspace(0.02, 0.98, 25))
"""Quantiles that the form of a histogram is described by."""
_LEAST_HISTOGRAM, _LEAST_TISSUES, _LEAST_WHITE_GREY = 0.15, 0.25, 0.4
"""Distances that count as none, standard deviations: a few training cases may be alike by chance."""


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
        """Mean absolute difference to the mean; of quantiles, the 1-Wasserstein distance of the histograms."""
        return _distance(np.asarray(profile), np.asarray(self.mean))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).mean())


def other_contrast(facts: CaseFacts, training: TrainingFingerprint, factor: float) -> Iterator[str]:
    """Says which channels have another contrast than those of the training cases.

    Args:
        facts: of the case.
        training: of the training cases; of a model that lacks the profiles nothing can be said.
        factor: how many times farther than the training cases from each other a case may be.
    """
    for channel, profile in training.tissues.items():
        own = facts.tissues.get(channel)
        if not own:
            continue
        apart = training.white_over_grey[channel]
        other = profile.distance(tissue_profile(own)) > max(factor * profile.spread, _LEAST_TISSUES)
        if other or apart.distance((white_over_grey(own),)) > max(factor * apart.spread, _LEAST_WHITE_GREY):
            usual = _order_of(own, profile)
            yield f"{channel}: a different contrast from training ({_order(own)}; in training {usual})"
    for channel, profile in training.histogram.items():
        if channel in training.tissues and channel in facts.tissues:
            # Lesions change the histogram more than another contrast does.
            continue
        away = profile.distance(facts.histogram[channel]) if channel in facts.histogram else 0.0
        if away > max(factor * profile.spread, _LEAST_HISTOGRAM):
            yield (
                f"{channel}: the shape of the histogram lies {plain_number(away, 2)} standard deviations from the "
                f"training cases, which lie within {plain_number(profile.spread, 2)} of each other"
            )


def tissue_profile(tissues: Mapping[str, float]) -> tuple[float, ...]:
    """Returns the means in the order of the tissues' names: a record that was stored comes back in another order."""
    return tuple(tissues[name] for name in sorted(tissues))


def white_over_grey(tissues: Mapping[str, float]) -> float:
    """Returns how much brighter white matter is than grey: fluid varies with age, this with the kind of scan alone."""
    return tissues["white"] - tissues["grey"]


def _order(tissues: Mapping[str, float]) -> str:
    """Tissues with their means, the brightest first."""
    ordered = sorted(tissues.items(), key=lambda item: -item[1])
    # A sum with 0 turns −0 into 0.
    return ", ".join(f"{name} {round(value, 1) + 0.0:.1f}" for name, value in ordered)


def _order_of(own: Mapping[str, float], profile: TrainingProfile) -> str:
    return _order(dict(zip(sorted(own), profile.mean, strict=True)))
