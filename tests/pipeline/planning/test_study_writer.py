"""The YAML of a planned study: what was planned comes back, and comments stay comments."""

from __future__ import annotations

import yaml

from pipeline.planning.study_writer import study_text

VALUES = {
    "name": "yes",
    "datasets": {"target": {"path": "/scans/a: b #c", "foreground": {"Größe 1": [1, 2]}}},
    "target_training": {"arms": ["random"], "steps": 120},
    "long": {f"key_{i}": "a value of some length" for i in range(8)},
    "rate": 1e-05,
}


def test_values_come_back_as_they_were() -> None:
    text = study_text(VALUES, {"datasets.target": "why"}, ["heading"])
    assert yaml.safe_load(text) == VALUES
    assert max(map(len, text.splitlines())) <= 120


def test_a_reason_stands_above_its_key_and_cannot_end_its_comment() -> None:
    text = study_text(VALUES, {"target_training.steps": "because\nname: other " + "word " * 60}, [])
    assert yaml.safe_load(text) == VALUES
    lines = text.splitlines()
    where = lines.index("  steps: 120")
    assert lines[where - 1].startswith("  # ")
    assert any(line.startswith("  # because name: other") for line in lines)
