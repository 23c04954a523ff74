"""Cells that a spreadsheet would run as formulas are text, and are read back unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.names import printable
from pipeline.evaluation.csv_rows import read_rows, write_rows
from pipeline.storage.spreadsheet_cell import escaped, unescaped


@dataclass(frozen=True)
class Line:
    """A row with text and numbers."""

    case: str
    difference: float
    count: int


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@SUM(A1)", "'=x", "＝cmd()", "＠x", "\t=x", "\r=x"])
def test_formulas_are_text(text: str) -> None:
    assert escaped(text)[0] in "'\\"
    assert unescaped(escaped(text)) == printable(text)


@pytest.mark.parametrize("text", ["case_1", "", "a=b", "'quoted'", "Läsion", "1"])
def test_other_text_is_left_alone(text: str) -> None:
    assert escaped(text) == text
    assert unescaped(text) == text


@given(st.text(st.sampled_from("'=+-@a\t\n"), max_size=6))
def test_what_is_written_is_read_back(text: str) -> None:
    assert unescaped(escaped(text)) == printable(text)


def test_result_tables_hold_no_formula_and_read_back_equal(tmp_path: Path) -> None:
    rows = [Line("=cmd()", -0.25, -1), Line("+a", 0.5, 2), Line("'-b", 1.0, 3)]
    write_rows(tmp_path / "x.csv", Line, rows)
    text = (tmp_path / "x.csv").read_text()
    assert text.splitlines()[1:] == ["'=cmd(),-0.25,-1", "'+a,0.5,2", "''-b,1.0,3"]
    assert read_rows(tmp_path / "x.csv", Line) == rows
