"""Which arm is the best of a column: not one that segments next to nothing, and all that tie."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.evaluation.statistics import why_no_interval

LEAST_SHARE_OF_BEST_DICE = 0.5
"""An arm whose Dice is below this share of the best one is the best in nothing: empty masks are well calibrated."""


def arms_that_segment(dice: Mapping[str, float]) -> set[str]:
    """Names the arms that segment well enough to be called the best in another metric.

    Args:
        dice: arm → mean Dice at one size; NaN where it was not measured.

    Returns:
        The arms whose Dice is at least half of the best; all of them where no Dice is known.
    """
    best = max((value for value in dice.values() if math.isfinite(value)), default=math.nan)
    return {arm for arm, value in dice.items() if not value < LEAST_SHARE_OF_BEST_DICE * best}


def arms_with_patients_enough(patients: Mapping[str, int]) -> set[str]:
    """Names the arms that were measured on enough test patients to be compared; all of them where none was.

    Args:
        patients: arm → test patients measured at one size.
    """
    enough = {arm for arm, count in patients.items() if why_no_interval(count) is None}
    return enough or set(patients)


def best_arms(means: Mapping[str, float], *, less_is_better: bool, digits: int) -> set[str]:
    """Names the arms with the best mean, all that tie in what is printed.

    Args:
        means: arm → mean, of the arms that may be the best; NaN where there is none.
        less_is_better: whether the smallest mean is the best.
        digits: decimals that are printed.
    """
    printed = {arm: f"{mean:.{digits}f}" for arm, mean in means.items() if math.isfinite(mean)}
    if not printed:
        return set()
    best = (min if less_is_better else max)(printed, key=lambda arm: means[arm])
    return {arm for arm, text in printed.items() if text == printed[best]}
