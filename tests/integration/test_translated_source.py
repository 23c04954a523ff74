"""A study whose source images get another contrast before networks learn from them, through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_without_drawing")]


def test_source_networks_learn_from_translated_images_and_the_report_shows_them(
    finished_study: Any, write_study: Callable, tmp_path: Path
) -> None:
    config, workspace = finished_study.copy(tmp_path, write_study)
    weights = workspace / "train-source/network-00/snapshot-01.safetensors"
    before = weights.read_bytes()
    words = [
        str(config),
        "--workspace",
        str(workspace),
        "--set",
        "source.translate={kind: random_contrast, classes: 2}",
    ]
    assert main(["train-source", *words, "--jobs", "1"]) == 0
    assert weights.read_bytes() != before
    about = json.loads((workspace / "translate-source/random_contrast/translation.json").read_text())
    tested = json.loads((workspace / "check/study/study.json").read_text())["split"]["test"]
    assert (about["source_scans"], about["target_scans"]) == (3, 3)
    assert not tested.keys() & set(about["patients"]["pool"])
    marker = workspace / "translate-source/random_contrast/done.json"
    made = marker.stat().st_mtime_ns
    words[-1] = words[-1].replace("}", ", share: 0.5}")
    first = weights.read_bytes()
    assert main(["train-source", *words, "--jobs", "1"]) == 0
    # Another share trains anew, with what is prepared.
    assert weights.read_bytes() != first
    assert marker.stat().st_mtime_ns == made
    assert main(["report", *words]) == 0
    page = (workspace / "report/index.html").read_text()
    section = page[page.index('<section id="translation">') :].partition("</section>")[0]
    assert "50\N{NO-BREAK SPACE}% of their patches translated (random contrast)" in section
    assert "No scan of the target was needed: those of 3 pool patients are only compared with." in section
    assert 'id="translation-table"' in section
    assert (workspace / "report/figures/source-translation.png").is_file()


def test_too_few_target_scans_are_refused_before_anything_is_trained(
    finished_study: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["check", str(finished_study.config), "--workspace", str(tmp_path), "--set", "source.translate=fourier"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "`source.translate: fourier` has 3 scans to learn from (pool)" in told
    assert "Traceback" not in told
