"""Files of a unit of the inference stage."""

from __future__ import annotations

PREDICTIONS = "predictions"
"""Folder of the predicted test cases."""
UNIT = "unit.json"
"""What was trained, on whom and with what objective."""


def history_name(number: int) -> str:
    """File name of a member's history."""
    return "history.csv" if number == 0 else f"history-{number:02d}.csv"
