"""A study on one BIDS dataset with several kinds of labels: each entry is checked with its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.image_file import write_volume
from data.volume import Volume
from pipeline.cli import main

SUBJECTS = tuple(f"sub-{number:02d}" for number in range(1, 7))


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Six participants, with the labels of two pipelines."""
    root = tmp_path / "bids"
    for number, subject in enumerate(SUBJECTS):
        array = np.random.default_rng(number).normal(100, 20, (12, 12, 12)).astype(np.float32)
        label = np.zeros((12, 12, 12), np.uint8)
        label[4:8, 4:8, 4:8] = 1
        files = {
            root / subject / "anat" / f"{subject}_T1w.nii.gz": array,
            root / "derivatives" / "manual" / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz": label,
            root / "derivatives" / "tool" / subject / "anat" / f"{subject}_dseg.nii.gz": label,
        }
        for path, voxels in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(Volume(voxels, np.eye(4)), path)
    return root


def check(folder: Path, bids: Path, source: str | None, target: str | None) -> int:
    dataset = {"path": str(bids), "modality": "mr", "foreground": [1]}
    study = {
        "name": "kinds",
        "datasets": {"source": {**dataset, "label_kind": source}, "target": {**dataset, "label_kind": target}},
        "source": {"dataset": "source", "patients": 2},
        "target": {"dataset": "target", "pool": 2, "test": 2},
        "target_training": {"sizes": [2]},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return main(["check", str(path), "--workspace", str(folder / "workspace"), "--jobs", "1"])


def test_a_study_names_the_kind_of_label(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert check(tmp_path, bids, "manual", None) == 2
    message = capsys.readouterr().err
    assert "manual: label-lesion_mask (6 cases); tool: dseg (6 cases)" in message
    assert "`label_kind`" in message
    assert check(tmp_path, bids, "manual", "tool: dseg") == 0


def test_the_labels_of_each_entry_are_checked(bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for subject in SUBJECTS:
        (bids / "derivatives" / "tool" / subject / "anat" / f"{subject}_dseg.nii.gz").write_bytes(b"broken")
    assert check(tmp_path, bids, "manual", "manual") == 0
    capsys.readouterr()
    (bids / "derivatives" / "tool" / "dseg.tsv").write_text("index\tname\n1\tlesion\n")
    assert check(tmp_path, bids, "manual", "tool") == 2
    assert "_dseg.nii.gz" in capsys.readouterr().err


def test_what_the_layout_notices_is_a_finding_of_the_study(bids: Path, tmp_path: Path) -> None:
    findings = tmp_path / "workspace" / "check" / "study" / "findings.json"

    def noticed() -> set[str]:
        return {finding["check"] for finding in json.loads(findings.read_text())["findings"]}

    assert check(tmp_path, bids, "manual", "manual") == 0
    assert "mask_beside_scan" not in noticed()
    anat = bids / "sub-01" / "anat"
    (anat / "sub-01_label-lesion_roi.nii.gz").write_bytes(b"")
    assert check(tmp_path, bids, "manual", "manual") == 0
    assert "mask_beside_scan" in noticed()
