"""How numbers are printed for people: thousands separated, never in scientific notation, a true minus."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from data.plain_number import plain_number
from pipeline.evaluation.statistics import Interval

NOTHING = "–"
"""Stands for what is undefined."""
_SIGNIFICANT = 4
_SMALLEST = 1e-5
"""Below it a decimal fraction is mostly zeros, and a power of ten reads better."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """Prints a number with so many decimals; a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{digits}f}"
    # What rounds to zero has no sign.
    return text.replace("-", "−") if float(text.replace(",", "")) else text.removeprefix("-")


def percent(share: float, digits: int = 0) -> str:
    """Prints a share in per cent with so many decimals."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def counted(count: int, name: str) -> str:
    """Prints how many of something there are: `1 patient`, `12 patients`."""
    return f"{count} {name}" + ("s" if count != 1 else "")


def listing(names: Iterable[object]) -> str:
    """Joins words as prose does: `a, b and c`."""
    words = [str(name) for name in names]
    return " and ".join([", ".join(words[:-1]), *words[-1:]]) if len(words) > 1 else "".join(words)


def signed(value: float | None, digits: int = 3) -> str:
    """Prints a difference with its sign; what rounds to zero has none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+,.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text[1:]


def interval_text(interval: Interval, digits: int = 3, *, with_sign: bool = False) -> str:
    """Prints the ends of an interval in brackets; empty where there is none.

    Without any width there is none either: where all patients have the same value, all resamples have it, too, and
    that is no certainty.
    """
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)) or interval.low == interval.high:
        return ""
    one = signed if with_sign else number
    return f"[{one(interval.low, digits)}, {one(interval.high, digits)}]"


def p_text(p: float | None) -> str:
    """Prints a p-value as journals do: two significant digits, never zero; empty where there was no test."""
    if p is None or not math.isfinite(p):
        return ""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def plain(value: Any) -> str:
    """Prints a number of any size to four significant digits, e.g. `1,754`, `0.0024`, `3 × 10⁻⁷`; other things as text.

    Args:
        value: a number, a truth value, a text, or None.
    """
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return NOTHING
    if 0 < abs(value) < _SMALLEST:
        mantissa, _, power = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
        return f"{mantissa} × 10{str(int(power)).translate(_RAISED)}"
    return plain_number(value, _SIGNIFICANT).replace("-", "−")
