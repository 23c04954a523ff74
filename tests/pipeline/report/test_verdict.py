from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.evaluation.leading_arm import leading_arms, leads
from pipeline.evaluation.tables import CaseRow, StudyRows
from pipeline.report.verdict import far_off, told_apart


def rows(arms: Mapping[str, float], patients: int, spread: float = 0.02) -> list[CaseRow]:
    generator = np.random.default_rng(0)
    return [
        CaseRow(arm, 5, 0, f"p{i:02d}", f"p{i:02d}", "core", mean + float(generator.normal(0, spread)), 0.5)
        for arm, mean in arms.items()
        for i in range(patients)
    ]


def sentence(arms: Mapping[str, float], patients: int) -> str:
    study = StudyRows(rows(arms, patients))
    (leading,) = leading_arms(leads(study, study.draws(seed=0, resamples=300)))
    return told_apart(leading)


def test_an_arm_that_is_clear_of_the_others_is_better_with_patients_enough_for_a_test() -> None:
    text = sentence({"random": 0.3, "fine_tune": 0.6, "dwp": 0.8}, 14)
    assert text.startswith("At n = 5, “dwp” is better than every other arm; the closest is “fine_tune”: +0.")
    few = sentence({"random": 0.3, "fine_tune": 0.6, "dwp": 0.8}, 6)
    assert "is ahead of every other arm on these 6 test patients, which are too few for a test" in few
    assert sentence({"fine_tune": 0.6, "dwp": 0.8}, 14).startswith("At n = 5, “dwp” is better than “fine_tune”: +0.")


def test_an_arm_that_cannot_be_told_from_another_says_so_with_the_difference() -> None:
    text = sentence({"random": 0.3, "fine_tune": 0.8, "dwp": 0.8}, 14)
    first, _, rest = text.partition("; ")
    assert "cannot be told from “" in first
    assert "[−" in first
    assert rest == "it is better than “random”."


def test_many_arms_are_counted_and_not_listed() -> None:
    study = StudyRows([r for i in range(9) for r in rows({f"arm{i}": 0.8}, 14)] + rows(dict.fromkeys("abcde", 0.2), 14))
    (leading,) = leading_arms(leads(study, study.draws(seed=0, resamples=300)))
    assert told_apart(leading).endswith(", nor from 5 more; it is better than 5 other arms.")


def test_too_few_patients_tell_nothing_apart() -> None:
    assert sentence({"random": 0.3, "dwp": 0.8}, 2) == (
        "At n = 5, the arms cannot be told apart: 2 test patients are too few for an interval."
    )
    half_measured = [r for r in rows({"a": 0.5, "b": 0.4, "c": 0.3}, 14) if r.arm != "c" or r.patient < "p03"]
    study = StudyRows(half_measured)
    (leading,) = leading_arms(leads(study, study.draws(seed=0, resamples=300)))
    assert told_apart(leading).endswith("; too few patients were measured to compare it with “c”.")
    assert "better than “b”" in told_apart(leading)


def test_a_lone_arm_is_told_from_nothing() -> None:
    study = StudyRows(rows({"dwp": 0.8}, 14))
    assert leads(study, study.draws(seed=0, resamples=100)) == []


def test_a_distance_larger_than_the_structure_beside_a_decent_dice_is_remarked_on() -> None:
    away = {"good": 5.0, "far": 90.0, "poor": 95.0}
    study = StudyRows(
        [replace(r, hd95=away[r.arm], reference_ml=30.0) for r in rows({"good": 0.8, "far": 0.7, "poor": 0.2}, 6)]
    )
    text = far_off(study, 5)
    assert text is not None
    assert "“far” (Dice 0.7" in text
    assert "HD95 90 mm" in text
    assert "39 mm wide" in text
    assert "good" not in text
    assert "poor" not in text
    assert "more arm" not in text
    both = far_off(StudyRows([replace(r, hd95=90.0) for r in study.rows]), 5)
    assert both is not None
    assert "“good” (Dice 0.8" in both
    assert " and 1 more arm:" in both
    assert far_off(StudyRows([replace(r, hd95=5.0) for r in study.rows]), 5) is None
    # Without volumes there is nothing to hold a distance against.
    assert far_off(StudyRows([replace(r, reference_ml=float("nan")) for r in study.rows]), 5) is None
