"""What the policies for empty masks touched: for each metric how many measurements, and what became of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluation.tables import CaseRow
from pipeline.metrics.overlap import EmptyMask, EmptyMaskPolicy


@dataclass(frozen=True)
class EmptyMaskCount:
    """One row of `empty_masks.csv`: one metric of the whole study.

    Attributes:
        metric: name of the metric.
        policy: what empty masks give it.
        measured: rows of `cases.csv` that the metric applies to.
        both_empty: of these, reference and prediction empty.
        reference_empty: reference empty, prediction not.
        prediction_empty: the structure was missed; always the worst value.
        left_out: rows without a value, by policy; never one of the missed.
    """

    metric: str
    policy: str
    measured: int
    both_empty: int
    reference_empty: int
    prediction_empty: int
    left_out: int


def count_empty_masks(rows: Sequence[CaseRow], policies: Mapping[str, EmptyMaskPolicy]) -> list[EmptyMaskCount]:
    """Counts for every metric that was measured what its policy touched.

    Args:
        rows: of the whole study.
        policies: metric → what empty masks give it.

    Returns:
        One entry for each metric, in the order of `policies`.
    """
    counted = []
    for metric, policy in policies.items():
        kinds = [kind for row in rows if (kind := row.which_empty(metric)) is not None]
        if not kinds:
            continue
        undefined = sum(math.isnan(getattr(r, metric)) for r in rows if r.which_empty(metric) is not None)
        both, reference, prediction = (
            kinds.count(k) for k in (EmptyMask.BOTH, EmptyMask.REFERENCE, EmptyMask.PREDICTION)
        )
        counted.append(EmptyMaskCount(metric, policy.value, len(kinds), both, reference, prediction, undefined))
    return counted
