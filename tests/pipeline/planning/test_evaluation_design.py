"""How many annotated patients are judged in which way."""

from __future__ import annotations

import pytest

from data.errors import DataError
from pipeline.planning.evaluation_design import evaluation_design


@pytest.mark.parametrize(
    ("annotated", "options"),
    [
        (2, {"patients": "all", "folds": "leave_one_out"}),
        (8, {"patients": "all", "folds": "leave_one_out"}),
        (9, {"patients": "all", "folds": 5}),
        (20, {"patients": "all", "folds": 5}),
        (21, {"pool": 14, "test": 7}),
        (200, {"pool": 160, "test": 40}),
    ],
)
def test_few_patients_are_cross_validated_and_of_many_some_are_set_aside(annotated, options) -> None:
    design = evaluation_design(annotated, "scans")
    assert design.as_options() == options


def test_a_part_of_the_patients_is_drawn() -> None:
    assert evaluation_design(130, "scans", wanted=8).as_options() == {"pool": 8, "folds": "leave_one_out"}


def test_one_patient_gives_a_model_and_no_estimate() -> None:
    for design in (evaluation_design(1, "scans"), evaluation_design(5, "scans", wanted=1)):
        assert design.as_options() == {"pool": 1, "test": 0}
        assert not design.tested
        assert "nobody is left to say how good it is" in design.why


def test_two_patients_give_no_useful_interval() -> None:
    assert "no useful interval" in evaluation_design(2, "scans").why


@pytest.mark.parametrize(
    ("annotated", "wanted", "words"),
    [
        (0, None, "scans: no patient is annotated"),
        (5, 6, "--patients asks for 6 patients, and 5 are annotated"),
    ],
)
def test_too_few_are_refused_in_a_sentence(annotated, wanted, words) -> None:
    with pytest.raises(DataError) as refused:
        evaluation_design(annotated, "scans", wanted)
    assert words in str(refused.value)
