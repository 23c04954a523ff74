"""Whether the KL of a training had settled at its end.

The KL is followed over the last quarter of the training's way, which is measured in summed learning rate: where the
rate falls to nothing, a KL seems to stand still whatever it has left to go. It has settled unless a straight line
through its logged values rises or falls in that quarter by more than 1 % of their mean, and more than chance explains
(a 5 % test of the slope). A KL below its full weight (`kl_warm_up`) is divided by that weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.stored_record import StoredRecord
from pipeline.training.training_log import Row

_QUARTER = 0.25
_LEAST_ROWS = 5
_RELATIVE, _CHANCE = 0.01, 0.05
_COLUMNS = ("step", "rate", "kl", "kl_weight")


class KLTrend(StoredRecord):
    """How the KL of a training, or of one component of a mixture, moved over the last quarter of its way."""

    level: float
    """Mean of the scaled KL, nats per voxel."""
    drift: float
    """Change of the straight line through it, nats per voxel."""
    settled: bool
    """Whether the drift is small, or within chance."""

    @property
    def relative_drift(self) -> float:
        """The drift as a share of the level."""
        return self.drift / max(abs(self.level), 1e-12)


def kl_trends(rows: Sequence[Row]) -> tuple[KLTrend, ...]:
    """Follows the KL at the end of a training, and of each component of a mixture at the end of its own.

    Args:
        rows: of the log, with `step`, `rate`, `kl`, `kl_weight` and, for a mixture, `component`.

    Returns:
        One trend for each component; none where there is no KL or fewer than five of its values lie in the quarter.
    """
    found = []
    for component in dict.fromkeys(row.get("component") for row in rows):
        own = [row for row in rows if row.get("component") == component and row.get("kl") is not None]
        if (trend := _trend(own)) is not None:
            found.append(trend)
    return tuple(found)


def _trend(rows: Sequence[Row]) -> KLTrend | None:
    if len(rows) < _LEAST_ROWS:
        return None
    # Imported here, because they take long and only a finished training needs them.
    from scipy.integrate import cumulative_trapezoid
    from scipy.stats import linregress

    steps, rates, kl, weights = (np.array([row[key] for row in rows], float) for key in _COLUMNS)
    way = cumulative_trapezoid(rates, steps, initial=0)
    last = (way >= (1 - _QUARTER) * way[-1]) & (weights > 0)
    if np.count_nonzero(last) < _LEAST_ROWS or not way[-1] > 0:
        return None
    values = kl[last] / weights[last]
    line = linregress(way[last] / way[-1], values)
    level, drift = float(values.mean()), float(line.slope) * _QUARTER
    moves = abs(drift) > _RELATIVE * abs(level) and float(line.pvalue) < _CHANCE
    return KLTrend(level=level, drift=drift, settled=not moves)
