"""Learning rates as functions of the step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.schedule import cosine_cycles


@pytest.mark.parametrize("step", range(12))
def test_cycles_are_cosines_from_peak_to_floor(step: int) -> None:
    within = step % 4
    expected = 0.1 + 0.5 * (0.9 - 0.1) * (1 + math.cos(math.pi * within / 3))
    assert cosine_cycles(step, cycle=4, peak=0.9, floor=0.1) == pytest.approx(expected, rel=1e-12)


def test_the_warm_up_is_a_line_and_only_in_the_first_cycle() -> None:
    rates = [cosine_cycles(step, cycle=10, peak=1.0, floor=0.0, warm_up=4) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    # What is left of the cycle holds the whole half cosine.
    assert rates[4:10] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 5)) for k in range(6)])
    assert rates[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 9)) for k in range(10)])


@given(st.integers(0, 500), st.integers(1, 100), st.floats(1e-4, 1), st.floats(0, 1e-4), st.integers(0, 120))
def test_the_rate_stays_between_floor_and_peak(step: int, cycle: int, peak: float, floor: float, warm_up: int) -> None:
    rate = cosine_cycles(step, cycle=cycle, peak=peak, floor=floor, warm_up=warm_up)
    assert 0 < rate <= peak * (1 + 1e-12) or rate == floor == 0
    if step >= warm_up:
        assert rate >= floor * (1 - 1e-12)


@given(st.integers(2, 50), st.integers(1, 5))
def test_every_cycle_ends_at_the_floor(cycle: int, cycles: int) -> None:
    assert cosine_cycles(cycle * cycles - 1, cycle=cycle, peak=1.0, floor=0.25) == pytest.approx(0.25)
