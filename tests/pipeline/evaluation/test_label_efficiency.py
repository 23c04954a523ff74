from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.label_efficiency import label_efficiencies, patients_needed, why_no_efficiency
from pipeline.evaluation.tables import CaseRow, StudyRows

SIZES = (5, 10, 20, 40)


def needed(curve: list[float], target: float) -> float:
    return float(patients_needed(SIZES, np.array([curve]), np.array([target]))[0])


def test_between_sizes_the_curve_is_linear_in_log_n() -> None:
    curve = [0.5, 0.6, 0.7, 0.8]  # + 0.1 for every doubling
    for m in (5, 7.5, 10, 17, 40):
        assert needed(curve, 0.5 + 0.1 * math.log2(m / 5)) == pytest.approx(m)
    assert needed(curve, 0.81) == math.inf
    assert needed(curve, 0.49) == 0.0
    assert math.isnan(needed([0.5, math.nan, 0.7, 0.8], 0.6))


def test_a_curve_that_falls_is_made_level_and_the_smallest_size_counts() -> None:
    # 0.6 and 0.5 are pooled to 0.55 at both 10 and 20.
    curve = [0.4, 0.6, 0.5, 0.8]
    assert needed(curve, 0.55) == pytest.approx(10)
    assert needed(curve, 0.475) == pytest.approx(5 * math.sqrt(2))
    assert needed([0.4, 0.5, 0.7, 0.6], 0.66) == math.inf


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_a_better_target_never_needs_fewer_patients(curve: list[float], targets: list[float]) -> None:
    low, high = (needed(curve, t) for t in sorted(targets))
    assert low <= high + 1e-9
    assert all(m == 0 or m == math.inf or 5 - 1e-9 <= m <= 40 + 1e-9 for m in (low, high))


def rows(arm: str, n: int, level: float, shift: np.ndarray) -> list[CaseRow]:
    return [
        CaseRow(arm, n, repeat, f"c{i}", f"p{i}", "x", level + float(shift[i, repeat]), 0.5)
        for i in range(shift.shape[0])
        for repeat in range(shift.shape[1])
    ]


def constructed(levels: dict[tuple[str, int], float], noise: float) -> StudyRows[CaseRow]:
    """`random` gains 0.1 with every doubling from 0.5 at n = 5; patients and repeats differ, all arms alike."""
    shift = np.random.default_rng(0).normal(0, noise, (20, 3))
    curve = {("random", n): 0.5 + 0.1 * math.log2(n / 5) for n in SIZES}
    return StudyRows([row for (arm, n), level in {**curve, **levels}.items() for row in rows(arm, n, level, shift)])


def test_a_known_m_is_found_and_what_arms_share_cancels() -> None:
    level = 0.5 + 0.1 * math.log2(15 / 5)
    study = constructed({("dwp", 5): level}, noise=0.05)
    (got,) = label_efficiencies(study, study.draws(seed=0, resamples=300))
    assert (got.arm, got.n, got.relation) == ("dwp", 5, "=")
    assert got.patients == pytest.approx(15)
    assert got.efficiency == pytest.approx(3)
    # The noise is the same in both arms on every draw, so the interval has no width.
    assert (got.ci_low, got.ci_high) == (pytest.approx(3), pytest.approx(3))


def test_beyond_the_curve_only_a_bound_is_known() -> None:
    study = constructed({("dwp", 5): 0.9, ("bad", 10): 0.3}, noise=0.0)
    found = {r.arm: r for r in label_efficiencies(study, study.draws(seed=0, resamples=100))}
    best, bad = found["dwp"], found["bad"]
    assert (best.relation, best.efficiency, best.patients) == (">", 8.0, 40.0)
    assert (best.low_relation, best.ci_low, best.high_relation, best.ci_high) == (">", 8.0, ">", 8.0)
    assert (bad.relation, bad.efficiency) == ("<", 0.5)


def test_an_interval_may_end_in_a_bound() -> None:
    shift = np.random.default_rng(1).normal(0, 0.35, (20, 1))
    study = constructed({}, noise=0.0)
    study = StudyRows([*study.rows, *rows("dwp", 10, 0.75, np.repeat(shift - shift.mean(), 3, axis=1))])
    (got,) = label_efficiencies(study, study.draws(seed=0, resamples=1000))
    assert got.efficiency == pytest.approx(2 * math.sqrt(2))
    assert (got.relation, got.low_relation, got.high_relation) == ("=", "=", ">")
    assert got.ci_low < got.efficiency < got.ci_high == 4.0


def test_without_a_curve_of_random_there_is_none() -> None:
    shift = np.zeros((3, 1))
    study = StudyRows([*rows("random", 5, 0.5, shift), *rows("dwp", 5, 0.6, shift)])
    assert label_efficiencies(study, study.draws(seed=0, resamples=100)) == []


def test_with_too_few_test_patients_there_is_none_and_the_reason_is_said() -> None:
    rows = [
        CaseRow(arm, n, 0, f"p{p}", f"p{p}", "core", 0.5 + 0.01 * n + 0.1 * (arm == "dwp") + 0.02 * p, 0.5)
        for arm in ("random", "dwp")
        for n in (5, 10)
        for p in range(5)
    ]
    enough, few = StudyRows(rows), StudyRows([r for r in rows if r.patient != "p4"])
    for study, reason in ((enough, None), (few, "4 test patients are too few for an interval")):
        assert why_no_efficiency(study) == reason
        assert bool(label_efficiencies(study, study.draws(seed=0, resamples=100))) == (reason is None)
    lacking = StudyRows([r for r in rows if r.arm == "random" or r.patient < "p2"])
    assert label_efficiencies(lacking, lacking.draws(seed=0, resamples=100)) == []
