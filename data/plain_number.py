"""Numbers as people read them: no exponents, thousands set apart, no digits that say nothing."""

from __future__ import annotations

import math


def plain_number(value: float, digits: int = 3) -> str:
    """Returns a number with at least `digits` significant ones, whole from 10^(digits − 1) on, e.g. `1,754` or `0.036`.

    Trailing zeros after the point are left out: `2` and not `2.00`.
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain_span(low: float, high: float, digits: int = 3) -> str:
    """Returns e.g. `1,750 to 2,240`, or one number where both would look alike."""
    return " to ".join(dict.fromkeys((plain_number(low, digits), plain_number(high, digits))))


def plain_duration(seconds: float) -> str:
    """Returns a duration, e.g. `2 h 05 min`, `3 min 20 s`, `4.2 s`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
