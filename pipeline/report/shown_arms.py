"""The arms whose predictions are shown: which ones, and what there is of each at the largest size."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.tables import CaseRow, StudyRows
from pipeline.report.study_files import InferredUnit, KeptPrediction, StudyFiles


@dataclass(frozen=True)
class ShownArm:
    """An arm that is shown.

    Attributes:
        unit: its first repeat whose predictions were kept.
        predictions: case → prediction.
        rows: what the tables hold of this repeat.
    """

    unit: InferredUnit
    predictions: Mapping[str, KeptPrediction]
    rows: tuple[CaseRow, ...]

    @property
    def name(self) -> str:
        """Name of the arm."""
        return self.unit.arm

    def rows_of(self, case: str) -> list[CaseRow]:
        """What the tables hold of a case: a row for each label."""
        return [row for row in self.rows if row.case == case]

    def ranked_cases(self) -> list[str]:
        """The predicted cases by Dice (mean over labels), the best first."""
        return ranked_cases(self.rows, self.predictions)


def shown_arms(files: StudyFiles, study: StudyRows, count: int) -> tuple[list[ShownArm], list[str]]:
    """Finds the arms to show: the best by mean Dice, then the best rival, then the others by mean Dice.

    Args:
        files: of the study.
        study: its `cases.csv`.
        count: how many to show.

    Returns:
        The arms, and sentences on those whose predictions are missing.
    """
    n = study.sizes[-1]
    means = study.table("dice", n).means()
    order = sorted(means, key=lambda arm: math.inf if math.isnan(means[arm]) else -means[arm])
    rival = next((c.rival for c in files.comparisons if c.n == n), None)
    if rival in order[1:]:
        order.remove(rival)
        order.insert(1, rival)
    shown, missing = [], []
    for arm in order[:count]:
        unit = files.predicted_unit(arm, n)
        if unit is None:
            missing.append(f"infer/{arm}/n{n:02d} holds no predictions: the infer stage writes them.")
            continue
        rows = tuple(r for r in study.rows if (r.arm, r.n, r.repeat) == (arm, n, unit.repeat))
        shown.append(ShownArm(unit, unit.predictions(), rows))
    return shown, missing


def mean_dice(rows: Iterable[CaseRow]) -> float:
    """Mean Dice of rows where it is defined; NaN without."""
    values = [r.dice for r in rows if math.isfinite(r.dice)]
    return float(np.mean(values)) if values else math.nan


def ranked_cases(rows: Iterable[CaseRow], available: Collection[str]) -> list[str]:
    """Orders the cases of one trained arm by Dice (mean over labels), the best first."""
    by_case: dict[str, list[CaseRow]] = {}
    for row in rows:
        if row.case in available and math.isfinite(row.dice):
            by_case.setdefault(row.case, []).append(row)
    return sorted(by_case, key=lambda case: (-mean_dice(by_case[case]), case))


def best_median_worst(order: Sequence[str]) -> list[tuple[str, str]]:
    """Picks three of the ranked cases; returns `(rank, case)`, fewer with few cases."""
    if not order:
        return []
    # A case that is several of them has the best of its ranks.
    picks = {order[-1]: "worst", order[(len(order) - 1) // 2]: "median", order[0]: "best"}
    return [(rank, case) for case, rank in reversed(picks.items())]
