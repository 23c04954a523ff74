"""A class named `prostate/uterus`, as in AMOS: read by every command, and never a folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.image_file import write_volume
from data.volume import Volume
from pipeline.cli import main

CLASSES = {"prostate/uterus": 1, "prostate uterus": 2}
"""Two names that are one word in a file name where nobody keeps them apart."""


@pytest.mark.slow
def test_check_and_preprocess_take_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for number in range(5):
        label = np.zeros((12, 14, 10), np.uint8)
        label[3:6, 4 : 8 + number % 2, 3:7], label[7:10, 4:9, 3:7] = 1, 2
        image = 100 * label + np.random.default_rng(number).normal(300, 20, label.shape)
        write_volume(Volume(image.astype(np.float32), np.eye(4)), folder / "imagesTr" / f"c{number}.nii.gz")
        write_volume(Volume(label, np.eye(4)), folder / "labelsTr" / f"c{number}.nii.gz")
    entries = [{"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"} for n in range(5)]
    labels = {"0": "background"} | {str(value): name for name, value in CLASSES.items()}
    about = {"modality": {"0": "MR"}, "labels": labels, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(about))
    study = {
        "name": "amos",
        "datasets": {"mr": {"path": str(folder), "modality": "mr", "foreground": ["prostate/uterus"]}},
        "source": {"dataset": "mr", "patients": 2},
        "target": {"dataset": "mr", "pool": 2, "test": 1},
        "target_training": {"sizes": [1]},
        "workspace": str(tmp_path / "workspace"),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    for command in ("check", "preprocess"):
        assert main([command, str(tmp_path / "study.yaml")]) == 0
    names = [str(path.relative_to(tmp_path)) for path in (tmp_path / "workspace").rglob("*")]
    assert any(name.endswith("arrays.safetensors") for name in names)
    assert not [name for name in names if "prostate" in name]


def test_predict_and_the_bundle_take_it(make_model: Callable[..., Path], write_scans: Callable, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", classes=CLASSES)
    (scan,) = write_scans(tmp_path / "in", ["a"])
    arguments = ["predict", str(model), str(scan), "--output", str(tmp_path / "out"), "--probabilities"]
    assert main(arguments) == 0
    folder = tmp_path / "out" / "a"
    maps = {path.name for path in folder.glob("*probability*")}
    assert maps == {"a_probability-prostate-uterus-1.nii.gz", "a_probability-prostate-uterus-2.nii.gz"}
    assert [path for path in folder.iterdir() if path.is_dir()] == []
    assert set(json.loads((folder / "a.json").read_text())["structures"]) == set(CLASSES)
    with (tmp_path / "out" / "predictions.csv").open() as stream:
        assert {row["structure"] for row in csv.DictReader(stream)} == set(CLASSES)
    assert main(["export", str(model), "--output", str(tmp_path / "bundle"), "--set", "onnx=false"]) == 0
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert set(channels.values()) == {"background", *CLASSES}


@pytest.mark.parametrize("name", ["../x", "/abs", "a//b", "a/", "a/.b", "a/ b", "a\\b", "a/\x1b"])
def test_a_class_that_looks_like_a_path_is_refused(
    make_model: Callable[..., Path], write_scans: Callable, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    model = make_model(tmp_path / "model")
    description = model / "model.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"classes": {name: 3}}))
    (scan,) = write_scans(tmp_path / "in", ["a"])
    assert main(["predict", str(model), str(scan), "--output", str(tmp_path / "out")]) == 2
    assert "Traceback" not in capsys.readouterr().err
