from __future__ import annotations

import math

from pipeline.evaluation.arm_ranking import arms_that_segment, best_arms


def test_an_arm_below_half_of_the_best_dice_is_the_best_in_nothing() -> None:
    assert arms_that_segment({"a": 0.8, "b": 0.4, "c": 0.39, "d": 0.0}) == {"a", "b"}
    assert arms_that_segment({"a": 0.0, "b": 0.0}) == {"a", "b"}
    assert arms_that_segment({"a": math.nan, "b": math.nan}) == {"a", "b"}
    assert arms_that_segment({"a": 0.8, "b": math.nan}) == {"a", "b"}


def test_all_that_tie_in_what_is_printed_are_the_best() -> None:
    means = {"a": 0.7004, "b": 0.6996, "c": 0.6994, "d": math.nan}
    assert best_arms(means, less_is_better=False, digits=3) == {"a", "b"}
    assert best_arms(means, less_is_better=False, digits=4) == {"a"}
    assert best_arms(means, less_is_better=True, digits=3) == {"c"}
    assert best_arms({"a": math.nan}, less_is_better=True, digits=3) == set()
    assert best_arms({}, less_is_better=True, digits=3) == set()
