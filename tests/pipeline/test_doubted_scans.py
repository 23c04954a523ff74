"""What the checks doubt of a scan's content reaches the warnings and the quality page of `preprocess`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.image_file import write_volume
from data.volume import Volume
from pipeline.config.reading import read_config
from pipeline.config.study import StudyConfig
from pipeline.stages import check, preprocess
from pipeline.stages.resources import Resources
from pipeline.storage.workspace import Workspace

SHIFTED = ("c1", "c3")


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """A study of five CT, two of them with 1024 added."""
    lines = ["case,CT,label"]
    for number in range(5):
        generator = np.random.default_rng(number)
        label = np.zeros((12, 14, 10), np.uint8)
        label[3 : 8 + number % 2, 4:9, 3:7] = 1
        array = np.where(label > 0, 60, -1000) + generator.normal(0, 15, label.shape)
        name = f"c{number}"
        shift = 1024 if name in SHIFTED else 0
        write_volume(Volume((array + shift).astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
        write_volume(Volume(label, np.eye(4)), tmp_path / f"{name}-label.nii.gz")
        lines.append(f"{name},{name}.nii.gz,{name}-label.nii.gz")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.csv").write_text("value,name\n1,organ\n")
    raw = {
        "name": "shifted",
        "datasets": {"ct": {"path": str(tmp_path / "manifest.csv"), "modality": "ct", "foreground": ["organ"]}},
        "source": {"dataset": "ct", "patients": 2},
        "target": {"dataset": "ct", "pool": 2, "test": 1},
        "target_training": {"sizes": [1]},
        "workspace": str(tmp_path / "workspace"),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    return read_config(tmp_path / "study.yaml")


@pytest.mark.slow
def test_shifted_ct_is_told_by_check_and_suspect_in_preprocess(
    config: StudyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(config.workspace_folder)
    with caplog.at_level(logging.WARNING):
        check.run(config, workspace, Resources(jobs=1))
    told = [message for message in caplog.messages if "with 1,024 added" in message]
    assert [any(f" {case}:" in message for case in SHIFTED) for message in told] == [True, True]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        preprocess.run(config, workspace, Resources(jobs=1))
    suspect = [message for message in caplog.messages if message.startswith("suspect")]
    assert all(f"ct/{case}: scan: CT: the values look" in line for case, line in zip(SHIFTED, suspect, strict=True))
    assert any("5 done, 2 of them suspect, 0 failed" in message for message in caplog.messages)
    folder = workspace.root / "preprocess"
    assert (folder / "index.html").read_text().count("with 1,024 added") == 2
    doubts = {p.parent.name: json.loads(p.read_text())["doubts"] for p in folder.glob("ct/*/qc.json")}
    assert {case for case, found in doubts.items() if found} == set(SHIFTED)
