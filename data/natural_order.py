"""The order in which people list names: `run-2` before `run-10`."""

from __future__ import annotations

import re


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts `run-2` before `run-10`, and numbers before words."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]
