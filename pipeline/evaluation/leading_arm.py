"""The arm with the highest mean of every size, against each other arm: what can be told apart, and what cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.arm_ranking import arms_with_patients_enough
from pipeline.evaluation.statistics import Interval, Resamples, paired_difference
from pipeline.evaluation.tables import PatientTable, RowT, StudyRows


@dataclass(frozen=True)
class Lead:
    """The leading arm of one size minus another arm: a row of `leading_arms.csv`.

    Attributes:
        n: number of target patients.
        arm: the leading arm.
        other: the arm that it is compared with.
        metric: name of the metric.
        difference: mean of `arm − other` over the cells measured in both; NaN with too few patients.
        ci_low: lower end of its 95 % interval over patients × repeats.
        ci_high: upper end.
        patients: number of patients measured in both arms.
    """

    n: int
    arm: str
    other: str
    metric: str
    difference: float
    ci_low: float
    ci_high: float
    patients: int

    @property
    def interval(self) -> Interval:
        """The difference with its interval."""
        return Interval(self.difference, self.ci_low, self.ci_high)


@dataclass(frozen=True)
class LeadingArm:
    """The best arm of one size.

    Attributes:
        leads: this arm minus each other arm; the closest first. It was chosen on the very patients that it is compared
            on, which favours it.
    """

    leads: tuple[Lead, ...]

    @property
    def n(self) -> int:
        """Number of target patients."""
        return self.leads[0].n

    @property
    def arm(self) -> str:
        """Its name."""
        return self.leads[0].arm

    @property
    def patients(self) -> int:
        """The most patients of any of the comparisons."""
        return max(lead.patients for lead in self.leads)

    def not_compared(self) -> list[Lead]:
        """Those of arms with too few patients in common with this one."""
        return [lead for lead in self.leads if not math.isfinite(lead.ci_low)]

    def not_told_apart(self) -> list[Lead]:
        """Those whose interval holds zero; the closest first."""
        return [lead for lead in self.leads if lead.ci_low <= 0]

    def behind(self) -> list[Lead]:
        """Those whose interval lies above zero; the closest first."""
        return [lead for lead in self.leads if lead.ci_low > 0]


def leads(study: StudyRows[RowT], draws: Resamples, *, metric: str = "dice") -> list[Lead]:
    """Compares the leading arm of every size with each other arm.

    Args:
        study: all rows.
        draws: shared draws of `study.draws`.
        metric: a metric of which more is better.

    Returns:
        Size by size, the closest arm first; none at a size with a single measured arm.
    """
    found = []
    for n in study.sizes:
        table = study.table(metric, n)
        best, *others = ranked_arms(table) or [""]
        for arm in others:
            paired = paired_difference(table.of(best), table.of(arm), draws)
            interval = paired.interval
            found.append(Lead(n, best, arm, metric, interval.mean, interval.low, interval.high, paired.patients))
    return found


def ranked_arms(table: PatientTable) -> list[str]:
    """Orders the measured arms of a size by their mean, the best first; those with too few patients come last."""
    means = {arm: mean for arm, mean in table.means().items() if math.isfinite(mean)}
    enough = arms_with_patients_enough({arm: table.patients_measured()[arm] for arm in means})
    return sorted(means, key=lambda arm: (arm not in enough, -means[arm]))


def leading_arms(found: Sequence[Lead]) -> list[LeadingArm]:
    """Gathers the leading arm of every size at which arms were compared."""
    sizes = dict.fromkeys(lead.n for lead in found)
    return [LeadingArm(tuple(lead for lead in found if lead.n == n)) for n in sizes]
