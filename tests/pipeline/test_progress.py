"""Progress of a stage."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.execution import progress
from pipeline.execution.progress import ProgressFile, StageProgress
from pipeline.storage.digest import digest


def test_a_unit_tells_its_fraction_and_the_stage_adds_them_up(tmp_path: Path) -> None:
    stage = StageProgress("s", {"big": 3.0, "small": 1.0}, tmp_path)
    assert stage._fraction() == 0
    ProgressFile(tmp_path / digest("big")[:16])(0.5)
    assert stage._fraction() == pytest.approx(0.375)
    (tmp_path / digest("big")[:16]).write_text("0.5e")  # torn while it was written
    assert stage._fraction() == 0
    stage.finished("small", "done", 1.0, "")
    assert stage._fraction() == pytest.approx(0.25)


def test_a_unit_does_not_write_at_every_step(tmp_path: Path) -> None:
    path = tmp_path / "unit"
    tell = ProgressFile(path)
    tell(0.1)
    before = path.read_text()
    for step in range(100):
        tell(step / 100)
    assert path.read_text() == before == "0.1000"


def test_without_a_terminal_lines_tell_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.02)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    with StageProgress("training", {"a": 1.0, "b": 1.0}, tmp_path) as stage:
        ProgressFile(tmp_path / digest("a")[:16])(0.5)
        for _ in range(300):
            if "left" in caplog.text:
                break
            stage._stop.wait(0.01)
        stage.finished("a", "done", 65.0, "")
        stage.finished("b", "failed", 1.0, "no memory")
    assert "training: 25 %, about" in caplog.text
    assert "training 1/2 a (1 min 05 s)" in caplog.text
    assert "training 2/2 b failed: no memory" in caplog.text


def test_on_a_terminal_a_bar_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with StageProgress("training", {"a": 1.0}, tmp_path) as stage:
        stage.finished("a", "done", 1.0, "")
    text = capsys.readouterr().err
    assert "training" in text
    assert "100%" in text
    assert "1/1" in text
