"""Every metric obeys its own policy, and no policy lets a missed structure vanish."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.empty_mask_counts import count_empty_masks
from pipeline.evaluation.options import EvaluationOptions, LesionOptions, MetricPolicies
from pipeline.evaluation.tables import METRICS, CaseRow, StudyRows, summarise
from pipeline.metrics.overlap import EmptyMaskPolicy

NONE = np.zeros((4, 4, 5), np.int16)
SOME = np.ones_like(NONE)
DIAGONAL = math.sqrt(3**2 + 6**2 + 12**2)
BEST_AND_WORST = {
    "hd95": (0.0, DIAGONAL),
    "average_surface_distance": (0.0, DIAGONAL),
    "relative_volume_error": (0.0, 1.0),
}


def measure(prediction: np.ndarray, reference: np.ndarray, options: EvaluationOptions, case: str = "c") -> CaseRow:
    trained, spacing = TrainedArm("dwp", 5, 0), (1.0, 2.0, 3.0)
    (row,) = evaluate_case(
        prediction, reference, {"x": 1}, spacing, trained=trained, case=case, patient=case, options=options
    )
    return row


def options(metric: str, policy: EmptyMaskPolicy, others: EmptyMaskPolicy) -> EvaluationOptions:
    own = MetricPolicies.model_validate({metric: policy})
    return EvaluationOptions(empty_masks=others, empty_masks_by_metric=own, lesions=LesionOptions())


def test_every_summarised_metric_has_a_policy() -> None:
    assert list(MetricPolicies.model_fields) == list(METRICS)
    assert list(EvaluationOptions().policies()) == list(METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_obeys_its_own_policy_and_the_others_theirs(metric: str) -> None:
    best, worst = BEST_AND_WORST.get(metric, (1.0, 0.0))
    expected = {
        EmptyMaskPolicy.REWARD_AGREEMENT: (best, worst),
        EmptyMaskPolicy.SKIP_AGREEMENT: (math.nan, worst),
        EmptyMaskPolicy.SKIP_EMPTY_REFERENCE: (math.nan, math.nan),
    }
    for policy, (both, reference_empty) in expected.items():
        others = EmptyMaskPolicy.REWARD_AGREEMENT
        if policy is others:
            others = EmptyMaskPolicy.SKIP_EMPTY_REFERENCE
        chosen = options(metric, policy, others)
        rows = measure(NONE, NONE, chosen), measure(SOME, NONE, chosen), measure(NONE, SOME, chosen)
        got = [getattr(row, metric) for row in rows]
        assert got == pytest.approx([both, reference_empty, worst], nan_ok=True)
        if others is EmptyMaskPolicy.REWARD_AGREEMENT:
            assert all(math.isfinite(getattr(row, m)) for row in rows for m in METRICS if m != metric)


@pytest.mark.parametrize("policy", EmptyMaskPolicy)
def test_a_missed_structure_pulls_every_average_down(policy: EmptyMaskPolicy) -> None:
    chosen = EvaluationOptions(empty_masks=policy, lesions=LesionOptions())
    found, missed = measure(SOME, SOME, chosen, "a"), measure(NONE, SOME, chosen, "b")
    means = {r.metric: (r.mean, r.cases) for r in summarise(StudyRows([found, missed]), 0, 100)}
    for metric in METRICS:
        best, worst = BEST_AND_WORST.get(metric, (1.0, 0.0))
        assert means[metric] == (pytest.approx((best + worst) / 2), 2)


def test_counts_say_what_each_policy_touched() -> None:
    chosen = options("hd95", EmptyMaskPolicy.SKIP_AGREEMENT, EmptyMaskPolicy.SKIP_EMPTY_REFERENCE)
    pairs = [(NONE, NONE), (NONE, NONE), (SOME, NONE), (NONE, SOME), (SOME, SOME)]
    rows = [measure(p, r, chosen, f"case-{i}") for i, (p, r) in enumerate(pairs)]
    counts = {c.metric: c for c in count_empty_masks(rows, chosen.policies())}
    assert set(counts) == set(METRICS)
    for metric, count in counts.items():
        touched = (count.both_empty, count.reference_empty, count.prediction_empty, count.measured)
        assert touched == (2, 1, 1, 5)
        assert count.left_out == (2 if metric == "hd95" else 3)


def test_lesion_metrics_that_were_not_asked_for_are_not_counted() -> None:
    chosen = EvaluationOptions()
    counts = count_empty_masks([measure(SOME, SOME, chosen)], chosen.policies())
    assert {c.metric for c in counts} == {m for m in METRICS if not m.startswith("lesion_")}
