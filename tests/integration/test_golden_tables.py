"""The tables of the tiny study are those of `tests/golden/`.

A change that is meant to change them writes them again, and explains the change of the numbers with that of the code:
`GRAFT_RENEW_GOLDEN=1 make test ARGS=tests/integration/test_golden_tables.py`.
"""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

_GOLDEN = Path(__file__).parents[1] / "golden"
_TABLES = (
    "cases",
    "summary",
    "comparisons",
    "leading_arms",
    "calibration",
    "calibration_summary",
    "empty_masks",
    "label_efficiency",
)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _same(found: str, expected: str) -> bool:
    """Words are the same, and numbers as near as other processors come, which may see a voxel or two differently."""
    try:
        return float(found) == pytest.approx(float(expected), rel=0.02, abs=0.005, nan_ok=True)
    except ValueError:
        return found == expected


@pytest.mark.parametrize("table", _TABLES)
def test_the_tables_are_those_that_were_kept(finished_study: Any, table: str) -> None:
    found = finished_study.workspace / "results" / f"{table}.csv"
    golden = _GOLDEN / found.name
    if os.environ.get("GRAFT_RENEW_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        shutil.copy(found, golden)
    assert found.read_text().splitlines()[0] == golden.read_text().splitlines()[0]
    mine, kept = _rows(found), _rows(golden)
    assert len(mine) == len(kept)
    differ = [
        f"row {number}, {key}: {row[key]}, kept {value}"
        for number, (row, expected) in enumerate(zip(mine, kept, strict=True), start=2)
        for key, value in expected.items()
        if not _same(row[key], value)
    ]
    assert not differ, "\n".join(differ)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [("0.5001", "0.5", True), ("0.53", "0.5", False), ("", "0.5", False), ("dwp", "dwp", True), ("dwp", "swa", False)],
)
def test_a_difference_would_be_seen(found: str, expected: str, same: bool) -> None:
    assert _same(found, expected) is same
