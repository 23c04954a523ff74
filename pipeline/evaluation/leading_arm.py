"""The arm with the highest mean of every size, against each other arm: what can be told apart, and what cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.evaluation.arm_ranking import arms_with_patients_enough
from pipeline.evaluation.statistics import PairedDifference, Resamples, paired_difference
from pipeline.evaluation.tables import RowT, StudyRows


@dataclass(frozen=True)
class LeadingArm:
    """The best arm of one size.

    Attributes:
        n: number of target patients.
        arm: its name; it was chosen on the very patients that it is compared on, which favours it.
        mean: its mean.
        differences: other arm → paired difference, this arm minus the other; the closest first.
    """

    n: int
    arm: str
    mean: float
    differences: Mapping[str, PairedDifference]

    @property
    def patients(self) -> int:
        """The most patients of any of the comparisons."""
        return max(difference.patients for difference in self.differences.values())

    def not_compared(self) -> list[str]:
        """Arms with too few patients in common with this one."""
        return [arm for arm, difference in self.differences.items() if not math.isfinite(difference.interval.low)]

    def not_told_apart(self) -> list[str]:
        """Arms whose interval of the difference holds zero; the closest first."""
        return [arm for arm, difference in self.differences.items() if difference.interval.low <= 0]

    def behind(self) -> list[str]:
        """Arms whose interval of the difference lies above zero; the closest first."""
        return [arm for arm, difference in self.differences.items() if difference.interval.low > 0]


def leading_arms(study: StudyRows[RowT], draws: Resamples, *, metric: str = "dice") -> list[LeadingArm]:
    """Finds the leading arm of every size at which arms can be compared.

    Args:
        study: all rows.
        draws: shared draws of `study.draws`.
        metric: a metric of which more is better.

    Returns:
        One for each size with two measured arms or more.
    """
    leading = []
    for n in study.sizes:
        table = study.table(metric, n)
        means = {arm: mean for arm, mean in table.means().items() if math.isfinite(mean)}
        if len(means) < 2:
            continue
        enough = arms_with_patients_enough({arm: table.patients_measured()[arm] for arm in means})
        order = sorted(means, key=lambda arm: (arm not in enough, -means[arm]))
        best = order[0]
        differences = {arm: paired_difference(table.of(best), table.of(arm), draws) for arm in order[1:]}
        leading.append(LeadingArm(n, best, means[best], differences))
    return leading
