"""Learning rates as functions of the step."""

from __future__ import annotations

import math


def cosine_cycles(step: int, *, cycle: int, peak: float, floor: float, warm_up: int = 0) -> float:
    """Cosine annealing with warm restarts (Loshchilov & Hutter 2017, eq. 5).

    Args:
        step: from 0.
        cycle: steps of a cycle; the rate jumps back to the peak at its end.
        peak: rate at the start of each cycle.
        floor: rate at the end of each cycle.
        warm_up: steps of the first cycle over which the rate rises linearly to the peak.
    """
    if step < warm_up:
        return peak * (step + 1) / warm_up
    start = warm_up if step < cycle else step // cycle * cycle
    end = cycle if step < cycle else start + cycle
    fraction = (step - start) / max(end - start - 1, 1)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(fraction, 1.0)))
