"""Annotations against out-of-fold predictions: what they surprise, and which one stands out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.arm_calibration import CalibrationCase
from pipeline.evaluation.case_evaluation import TrainedArm
from pipeline.evaluation.label_audit import AuditRow, audit_case, excess_surprise, study_audit

SPACING = (1.0, 1.0, 2.0)
TRAINED = TrainedArm("swag_calibrated", 8, 0)


def blob(shift: int = 0) -> np.ndarray:
    mask = np.zeros((16, 16, 8), bool)
    mask[4 + shift : 10 + shift, 4:10, 2:6] = True
    return mask


def soft(mask: np.ndarray, inside: float = 0.95, outside: float = 0.02) -> np.ndarray:
    return np.where(mask, inside, outside).astype(np.float32)


def case(annotated: np.ndarray, probability: np.ndarray, name: str = "a") -> CalibrationCase:
    prediction = (probability > 0.5).astype(np.uint8)
    return CalibrationCase(
        name, name.upper(), ("hippocampus",), SPACING, probability[None], prediction, annotated.astype(np.uint8),
        None, None, 1,
    )  # fmt: skip


def test_the_surprise_is_the_cross_entropy_above_the_entropy() -> None:
    generator = np.random.default_rng(0)
    probability = generator.uniform(0.05, 0.95, (6, 5, 4))
    mask, annotated = probability > 0.5, generator.random((6, 5, 4)) < 0.5
    # In so small an image, every voxel is near.
    nll = -np.log(np.where(annotated, probability, 1 - probability))
    entropy = -probability * np.log(probability) - (1 - probability) * np.log(1 - probability)
    expected = (nll - entropy).sum() / (mask | annotated).sum()
    assert excess_surprise(probability, mask, annotated, (1, 1, 1), 1e-6) == pytest.approx(expected, rel=1e-12)


@given(st.integers(0, 1000), st.floats(0.02, 0.98))
def test_annotations_drawn_from_the_probabilities_surprise_by_nothing_on_average(seed: int, level: float) -> None:
    generator = np.random.default_rng(seed)
    probability = np.full((8, 8, 8), level)
    mask = probability > 0.5
    drawn = [
        excess_surprise(probability, mask, generator.random(mask.shape) < level, (1, 1, 1), 1e-6) for _ in range(30)
    ]
    spread = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn)) <= 6 * spread + 0.02 * abs(math.log(level / (1 - level)))


def test_a_hard_case_surprises_less_than_a_wrong_annotation() -> None:
    """Both have the same Dice, but of one the model said that it did not know."""
    unsure = soft(blob(), 0.55, 0.02)
    unsure[blob(2)] = 0.55
    hard = audit_case(case(blob(2), np.where(blob() & ~blob(2), 0.55, unsure)), TRAINED, "k", 1e-3)[0]
    wrong = audit_case(case(blob(2), soft(blob())), TRAINED, "k", 1e-3)[0]
    assert hard.surprise < 0.3 * wrong.surprise
    assert wrong.expected_dice - wrong.dice > 0.2


def test_what_is_missing_and_what_is_extra_is_measured_in_ml() -> None:
    annotated = blob()
    annotated[4:6] = False
    annotated[13:15, 4:10, 2:6] = True
    row = audit_case(case(annotated, soft(blob())), TRAINED, "n08/x", 1e-3)[0]
    voxel = 2 / 1000
    assert row.left_out_ml == pytest.approx(2 * 6 * 4 * voxel)
    assert row.extra_ml == pytest.approx(2 * 6 * 4 * voxel)
    assert (row.case, row.patient, row.label, row.prediction) == ("a", "A", "hippocampus", "n08/x")


def test_an_empty_annotation_of_what_is_plainly_there_comes_first() -> None:
    rows = [audit_case(case(blob(), soft(blob()), f"c{k}"), TRAINED, "k", 1e-3)[0] for k in range(6)]
    nothing = audit_case(case(np.zeros_like(blob()), soft(blob()), "empty"), TRAINED, "k", 1e-3)[0]
    found = study_audit([*rows, nothing])
    assert found[0].case == "empty"
    assert [row.stands_out for row in found] == [1.0] + [0.0] * 6
    both = audit_case(case(np.zeros_like(blob()), soft(np.zeros_like(blob()))), TRAINED, "k", 1e-3)[0]
    assert both.surprise == 0


def row(name: str, surprise: float, repeat: int = 0, label: str = "left") -> AuditRow:
    return AuditRow("dwp", 8, repeat, name, name, label, "k", surprise, 0.8, 0.9, 0.0, 0.0)


def test_repeats_are_averaged() -> None:
    rows = [row("a", 0.1), row("a", 0.5, 1), row("b", 0.2), replace(row("b", 0.2, 1), expected_dice=math.nan)]
    found = study_audit(rows)
    assert [(r.case, r.repeat, r.surprise) for r in found] == [("a", -1, 0.3), ("b", -1, 0.2)]
    assert found[1].expected_dice == 0.9


def test_few_annotations_have_no_outlier_and_structures_are_judged_apart() -> None:
    few = [row(f"c{k}", k) for k in range(4)]
    many = [row(f"c{k}", 0.1 * k, label="right") for k in range(9)] + [row("odd", 5, label="right")]
    found = study_audit([*few, *many])
    assert all(math.isnan(r.stands_out) for r in found if r.label == "left")
    assert [r.case for r in found if r.stands_out == 1] == ["odd"]
