"""What the results say in sentences: which arms can be told apart, and what the mean Dice hides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.evaluation.leading_arm import Lead, LeadingArm
from pipeline.evaluation.statistics import FEWEST_PATIENTS_FOR_P, why_no_interval
from pipeline.evaluation.tables import StudyRows
from pipeline.report.number_text import interval_text, listing, number, signed

_MOST_NAMED = 3
"""Arms that a sentence names; of more it gives the number."""
_DECENT_DICE = 0.5
"""From this mean Dice on, the structure as such was found."""


def told_apart(leading: LeadingArm, cross_validation: str | None = None) -> str:
    """Says in a sentence what can be told apart at one size.

    Only with enough patients for a test is an arm called better; with fewer, and in cross-validation, whose scores are
    no independent trials, it is ahead on these patients.

    Args:
        leading: the leading arm of a size, with its differences to the others.
        cross_validation: the design in words; `None` for a study with test patients.
    """
    reason, at = why_no_interval(leading.patients), f"At n = {leading.n}"
    if reason is not None:
        # No difference is given either: it would be read as a finding.
        return f"{at}, the arms cannot be told apart: {reason}."
    equal, behind = leading.not_told_apart(), leading.behind()
    few = leading.patients < FEWEST_PATIENTS_FOR_P or cross_validation is not None
    verb = "is ahead of" if few else "is better than"
    caveat = f" on these {leading.patients} test patients, which are too few for a test" if few else ""
    if cross_validation is not None:
        caveat = f" in {cross_validation} of these {leading.patients} patients"
    if equal:
        text = f"{at}, “{leading.arm}” cannot be told from {_named(equal)}"
        text += f"; it {verb} {_names(behind)}{caveat}" if behind else ""
    elif len(leading.leads) == 1:
        text = f"{at}, “{leading.arm}” {verb} “{behind[0].other}”{caveat}: {_difference(behind[0])}"
    else:
        others = _names(behind) if leading.not_compared() else "every other arm"
        text = f"{at}, “{leading.arm}” {verb} {others}{caveat}"
        text += f"; the closest is “{behind[0].other}”: {_difference(behind[0])}"
    if leading.not_compared():
        text += f"; too few patients were measured to compare it with {_names(leading.not_compared())}"
    return text + "."


def _difference(lead: Lead) -> str:
    return f"{signed(lead.difference)} {interval_text(lead.interval, with_sign=True)}"


def _named(leads: Sequence[Lead]) -> str:
    """The closest arms, each with its difference."""
    parts = [f"“{lead.other}”: {_difference(lead)}" for lead in leads[:_MOST_NAMED]]
    more = len(leads) - len(parts)
    return ", ".join(parts) + (f", nor from {more} more" if more else "")


def _names(leads: Sequence[Lead]) -> str:
    if len(leads) > _MOST_NAMED:
        return f"{len(leads)} other arms"
    return listing([f"“{lead.other}”" for lead in leads])


def far_off(study: StudyRows, n: int) -> str | None:
    """Says which arms find the structure and yet err farther from it than it is wide.

    Dice hardly notices a few voxels far away; HD95 is then larger than the sphere of the structure's volume is wide.

    Args:
        study: all rows.
        n: the size.

    Returns:
        The sentence; None where there is no such arm, or no volume is known.
    """
    volumes = [r.reference_ml for r in study.rows if math.isfinite(r.reference_ml) and r.reference_ml > 0]
    if not volumes:
        return None
    width = 10 * (6 * float(np.median(volumes)) / math.pi) ** (1 / 3)
    dice, distance, precision = (study.table(m, n).means() for m in ("dice", "hd95", "lesion_precision"))
    found = [
        f"“{arm}” ({_facts(dice[arm], distance.get(arm, math.nan), precision.get(arm, math.nan))})"
        for arm in sorted(dice, key=lambda arm: -dice[arm])
        if dice[arm] >= _DECENT_DICE and distance.get(arm, math.nan) > width
    ]
    if not found:
        return None
    more = len(found) - 1
    arms = found[0] + (f" and {more} more arm{'s' if more > 1 else ''}" if more else "")
    return (
        f"At n = {n}, HD95 is large beside a decent Dice for {arms}: there are distant false positives, or parts that "
        f"were missed far from the rest. A sphere of the structure's median volume is {number(width, 0)} mm wide. Look "
        "at the worst cases before you trust the mean Dice."
    )


def _facts(dice: float, distance: float, precision: float) -> str:
    text = f"Dice {number(dice, 2)}, HD95 {number(distance, 0)} mm"
    return text + (f", lesion-wise precision {number(precision, 2)}" if math.isfinite(precision) else "")
