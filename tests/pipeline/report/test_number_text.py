from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.statistics import Interval
from pipeline.report.number_text import interval_text, number, p_text, plain, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1754.4, "1,754"), (1.75e3, "1,750"), (12345678.0, "12,345,678"), (0.0024, "0.0024"), (0.30000000000000004, "0.3"),
     (2.0, "2"), (100.0, "100"), (-3.14159, "−3.142"), (3e-7, "3 × 10⁻⁷"), (1e-5, "0.00001"), (0.0, "0"),
     (1200, "1,200"), (True, "yes"), (None, "–"), (math.nan, "–"), (math.inf, "–"),
     ("text", "text"), (999.96, "1,000")],
)  # fmt: skip
def test_numbers_are_printed_for_people(value: object, text: str) -> None:
    assert plain(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_number_is_printed_in_scientific_notation(value: float) -> None:
    for text in (plain(value), number(value), signed(value)):
        assert "e" not in text
        assert "-" not in text


def test_decimals_signs_and_intervals() -> None:
    assert (number(1234.5, 1), number(-0.0001), number(-0.25, 2), number(math.nan)) == (
        "1,234.5",
        "0.000",
        "−0.25",
        "–",
    )
    assert (signed(0.5, 1), signed(-0.5, 1), signed(math.nan)) == ("+0.5", "−0.5", "–")
    assert interval_text(Interval(0.5, 0.25, 0.75), 2) == "[0.25, 0.75]"
    assert interval_text(Interval(0.5, -0.25, 0.75), 2, with_sign=True) == "[−0.25, +0.75]"
    assert interval_text(Interval(0.5, math.nan, math.nan)) == ""


def test_p_values_are_never_zero_and_have_two_digits() -> None:
    found = [p_text(p) for p in (0.0, 0.00099, 0.0123, 0.456, 1.0, None, math.nan)]
    assert found == ["p < 0.001", "p < 0.001", "p = 0.012", "p = 0.46", "p = 1.00", "", ""]
