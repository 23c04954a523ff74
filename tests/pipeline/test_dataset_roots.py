"""What the records of a study say of where its data lie is what the configuration says, not what this machine has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.image_file import write_volume
from data.volume import Volume
from pipeline.cli import main

ROOT = Path(__file__).parents[2]


def test_a_relative_path_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "scans" / folder).mkdir(parents=True)
    names = [f"case_{number}" for number in range(5)]
    for number, name in enumerate(names):
        image = np.random.default_rng(number).random((10, 11, 12), np.float32)
        write_volume(Volume(image, np.eye(4)), tmp_path / "scans/imagesTr" / f"{name}.nii.gz")
        write_volume(Volume((image > 0.5).astype(np.uint8), np.eye(4)), tmp_path / "scans/labelsTr" / f"{name}.nii.gz")
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    description = {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "x"}, "training": training}
    (tmp_path / "scans/dataset.json").write_text(json.dumps(description))
    raw = {
        "name": "tiny",
        "datasets": {"a": {"path": "scans", "modality": "mr", "foreground": ["x"]}},
        "source": {"dataset": "a", "patients": 2},
        "target": {"dataset": "a", "pool": 2, "test": 1},
        "target_training": {"sizes": [1], "reference_sizes": []},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    assert main(["check", "tiny.yaml", "--workspace", "out", "--jobs", "1"]) == 0
    assert json.loads((tmp_path / "out/provenance.json").read_text())["inputs"]["a"]["root"] == "scans"
    told = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and str(tmp_path) in p.read_text()]
    assert told == []
