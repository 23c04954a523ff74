"""A network of the user's own, named by its import path, through all stages, `predict` and `export`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import graft
from data.errors import GraftError
from data.image_file import read_volume
from pipeline.cli import main

pytestmark = pytest.mark.slow

CODE = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm3d(width)
        self.down = nn.Conv3d(width, width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(width, width, 2, stride=2)
        self.last = nn.Conv3d(width, width, 3, padding=1)
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, images):
        fine = torch.relu(self.norm(self.first(images)))
        return self.head(torch.relu(self.last(fine + self.up(torch.relu(self.down(fine))))))


def build(channels, classes, width):
    return Own(channels, classes, width)
"""
ARMS = {
    "random": None,
    "fine_tune_ends": None,
    "dwp": {"draws": 2},
    # The study's network against another one.
    "other": {"preset": "random", "network": {"name": "unet", "channels": [4, 8]}},
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a package `own_nets`, where this process and its workers find it."""
    folder = tmp_path_factory.mktemp("packages") / "own_nets"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.parent))
        patch.setenv("PYTHONPATH", str(folder.parent), prepend=os.pathsep)
        yield folder


@pytest.fixture(scope="module")
def study(
    package: Path, write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Configuration and workspace of a study that ran."""
    folder = tmp_path_factory.mktemp("study")
    config = write_study(
        folder / "own.yaml",
        write_cohort(folder / "cohort"),
        network=None,
        target_training={"arms": ARMS, "sizes": [2], "reference_sizes": []},
    )
    text = config.read_text().replace(
        "network: null\n", 'network: {factory: "own_nets.nets:build", options: {width: 4}}\n'
    )
    config.write_text(text)
    assert main(["run", str(config), "--workspace", str(folder / "workspace"), "--jobs", "1"]) == 0
    return config, folder / "workspace"


def scan(study: tuple[Path, Path]) -> Path:
    return study[0].parent / "cohort" / "imagesTr" / "case_0.nii.gz"


def model_of(study: tuple[Path, Path], arm: str = "dwp") -> Path:
    return study[1] / "infer" / arm / "n02" / "repeat-0" / "model"


def test_every_stage_is_done_and_the_model_refers_to_the_code(study: tuple[Path, Path]) -> None:
    _, workspace = study
    page = (workspace / "report" / "index.html").read_text()
    assert "built by own_nets.nets:build" in page
    network = json.loads((model_of(study) / "model.json").read_text())["network"]
    assert (network["factory"], network["options"], len(network["source"])) == ("own_nets.nets:build", {"width": 4}, 64)
    assert not list(model_of(study).glob("*.py"))
    other = model_of(study, "other")
    assert json.loads((other / "model.json").read_text())["network"]["name"] == "unet"
    assert graft.load_model(other, device="cpu").arm == "other"


def test_a_prediction_asks_for_consent(
    study: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(model_of(study)), str(scan(study)), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "code outside Graft, `own_nets.nets:build`" in error
    assert "--allow-network-code" in error
    assert not (tmp_path / "out").exists()
    assert main([*words, "--allow-network-code", "--set", "pictures=false"]) == 0
    with pytest.raises(GraftError, match="allow_code=True"):
        graft.load_model(model_of(study), device="cpu")
    found = graft.load_model(model_of(study), device="cpu", allow_code=True).predict(scan(study))
    mask = read_volume(tmp_path / "out" / "case_0" / "case_0.nii.gz")
    np.testing.assert_array_equal(found.mask.array, mask.array)
    config, workspace = study
    assert graft.Study(config, workspace=workspace).load_model("dwp", n=2).arm == "dwp"


def test_reading_a_model_runs_nothing_of_its_code(study: tuple[Path, Path], package: Path) -> None:
    code = (
        "import sys, graft\n"
        "try:\n"
        f"    graft.load_model({str(model_of(study))!r}, device='cpu')\n"
        "except graft.GraftError as error:\n"
        "    print('own_nets' in sys.modules, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("False ")


def test_a_package_that_is_not_there_is_one_sentence(study: tuple[Path, Path], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    words = ["predict", str(model_of(study)), str(scan(study)), "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "pipeline.cli", *words, "--allow-network-code"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "the network `own_nets.nets:build` cannot be imported (no module named 'own_nets')" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_bundle_refers_to_the_code_and_onnx_holds_it(
    study: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(model_of(study)), "--output", str(tmp_path / "bundle")]
    assert main(words) == 2
    assert "--allow-network-code" in capsys.readouterr().err
    assert main([*words, "--allow-network-code", "--set", "onnx=true"]) == 0
    network = json.loads((tmp_path / "bundle/configs/inference.json").read_text())["network_def"]
    assert network == {"_target_": "own_nets.nets.build", "channels": 1, "classes": 2, "width": 4}
    assert "`own_nets.nets:build` must be importable" in (tmp_path / "bundle/docs/README.md").read_text()
    assert (tmp_path / "bundle/models/model.onnx").is_file()


def test_results_follow_the_code(study: tuple[Path, Path], package: Path) -> None:
    """The code changes what is stale, in a process of its own: this one has imported it."""
    config, workspace = study
    words = ["train-source", str(config), "--workspace", str(workspace), "--jobs", "1"]
    before = (workspace / "train-source/network-00/done.json").read_text()
    assert main(words) == 0
    assert (workspace / "train-source/network-00/done.json").read_text() == before
    (package / "other.py").write_text("WIDTH = 3\n")
    try:
        command = [sys.executable, "-m", "pipeline.cli", *words]
        subprocess.run(command, capture_output=True, text=True, check=True)
        assert (workspace / "train-source/network-00/done.json").read_text() != before
        run = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", "predict", str(model_of(study)), str(scan(study)), "--output",
             str(workspace.parent / "again"), "--allow-network-code", "--set", "pictures=false"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "has changed since the model was trained" in run.stderr
    finally:
        (package / "other.py").unlink()


def test_a_model_with_such_a_network_can_be_updated(study: tuple[Path, Path]) -> None:
    config, workspace = study
    update = f"target_training.arms={{dwp: {{update_from: {model_of(study)}, draws: 2}}}}"
    other = workspace.parent / "updated"
    words = [str(config), "--set", update, "--workspace", str(other), "--jobs", "1"]
    for stage in ("check", "preprocess", "train-source", "collect-filters", "fit-priors", "infer"):
        assert main([stage, *words]) == 0
    assert (other / "infer/dwp/n02/repeat-0/model/model.json").is_file()


def test_a_network_that_the_exporter_cannot_follow_is_one_sentence(
    study: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("data-dependent branch\nwith a long story")

    monkeypatch.setattr("pipeline.deployment.onnx_network._convert", fail)
    words = ["export", str(model_of(study)), "--output", str(tmp_path / "bundle"), "--allow-network-code"]
    assert main(words) == 2
    assert "cannot be converted to ONNX (data-dependent branch)" in capsys.readouterr().err
    assert main([*words, "--set", "onnx=false"]) == 0
