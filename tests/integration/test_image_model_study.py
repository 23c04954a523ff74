"""A study whose arms start from networks that learned what scans look like, and what bad input is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_without_drawing")]

MODELS = {
    "denoising": {"steps": 3},
    "latents": {"objective": {"kind": "variational", "latent_channels": 2}, "steps": 3, "from_source": True},
}
SMALL = {"arms": ["random", "self_supervised"], "sizes": [2], "reference_sizes": []}


@pytest.fixture(scope="module")
def study(finished_study: Any, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Configuration and workspace of the finished study with one more arm and two image models."""
    folder = tmp_path_factory.mktemp("images")
    finished_study.copy(folder, write_study)
    config = write_study(folder / "images.yaml", folder / "cohort", target_training=SMALL, image_models=MODELS)
    assert main(["run", str(config), "--workspace", str(folder / "workspace"), "--jobs", "1"]) == 0
    return config, folder / "workspace"


@pytest.fixture(scope="module")
def config(study: tuple[Path, Path]) -> Path:
    return study[0]


@pytest.fixture(scope="module")
def workspace(study: tuple[Path, Path]) -> Path:
    return study[1]


def test_an_arm_starts_from_an_image_model_that_saw_nobody_who_is_tested(workspace: Path) -> None:
    about = json.loads((workspace / "train-image-model/denoising/image-model.json").read_text())
    plan = json.loads((workspace / "check/study/study.json").read_text())["split"]
    learned = {patient for patients in about["patients"].values() for patient in patients}
    assert about["patients"].keys() == {"source", "pool"}
    assert about["scans"] == len(learned) == 6
    assert plan["test"]
    assert not learned & plan["test"].keys()
    unit = json.loads((workspace / "infer/self_supervised/n02/repeat-0/unit.json").read_text())
    assert unit["choices"]["image_model"] == "denoising"
    assert unit["started_anew"] == ["head.conv.weight", "head.conv.bias"]
    own = json.loads((workspace / "train-image-model/latents/image-model.json").read_text())
    assert own["from_source"]
    assert set(own["started_anew"]) == {"head.conv.weight", "head.conv.bias"}


def test_the_report_shows_the_models_and_their_latents(workspace: Path) -> None:
    page = (workspace / "report/index.html").read_text()
    table = page[page.index('id="image-models-table"') :].partition("</table>")[0]
    assert "3 source patients and 3 pool patients" in table
    assert "source network 0" in table
    assert "self_supervised" in table
    assert "Image models were trained without labels on the source dataset “left”" in page
    assert "Without reading a label, the image model “denoising”, the same network with one output" in page
    assert "from 6 scans of 3 source patients and 3 pool patients, for 3 steps" in page
    assert "started from the image model “denoising”, with its last layer at random" in page
    assert 'href="latents.html"' in page
    latents = (workspace / "report/latents.html").read_text()
    assert "2 channels are in use" in latents
    assert "the middle of 6 scans" in latents
    for name in ("image-models", "image-model-denoising", "latent-latents", "latent-latents-way"):
        assert (workspace / f"report/figures/{name}.png").is_file()


def test_a_second_run_does_nothing_and_a_dry_run_counts_the_models(
    config: Path, workspace: Path, capsys: pytest.CaptureFixture
) -> None:
    dry = ["run", str(config), "--workspace", str(workspace), "--dry-run"]
    capsys.readouterr()
    assert main(dry) == 0
    assert "infer, train-image-model: nothing to do, 2 done" in capsys.readouterr().out
    assert main([*dry, "--set", "image_models.denoising.steps=4"]) == 0
    told = capsys.readouterr().out
    assert "infer, train-image-model: 1 of 2 to do" in told
    assert "infer, train-target: 1 of 2 to do" in told


REFUSED = {
    "an unknown model": (
        {"target_training.arms": {"a": {"init": "self_supervised", "image_model": "masks"}}},
        ["arm 'a' starts from the image model 'masks', which is not one of", "denoising"],
    ),
    "no model": ({"target_training.arms": {"a": {"init": "self_supervised"}}}, ["`image_model`", "need each other"]),
    "an unknown objective": ({"image_models": {"a": {"objective": "dreaming"}}}, ["image_models.a.objective"]),
    "too few scans": (
        {"image_models": {"denoising": {"learn_from": ["pool"]}}},
        ["the image model 'denoising' has 3 scans to learn from (pool)", "at least 5 scans"],
    ),
    "everybody is tested": (
        {"source": {"patients": 2}, "target": {"pool": 4, "test": None, "folds": 2}, "target_training.sizes": []},
        ["has 2 scans to learn from (source, and cross-validation tests everybody of the pool)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_before_anything_is_trained(
    what: str, config: Path, write_study: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    changes, sentences = REFUSED[what]
    study = {"target_training": SMALL, "image_models": MODELS}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        study[section] = {**study[section], name: value} if name else value
    written = write_study(tmp_path / "bad.yaml", config.parent / "cohort", **study)
    assert main(["run", str(written), "--workspace", str(tmp_path / "workspace"), "--jobs", "1"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for sentence in sentences:
        assert sentence in told, told
    assert not (tmp_path / "workspace/train-source").exists()


def test_an_imported_network_has_no_known_bottleneck(
    config: Path, write_study: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written = write_study(tmp_path / "own.yaml", config.parent / "cohort", image_models={"a": {"objective": "sparse"}})
    raw = yaml.safe_load(written.read_text())
    written.write_text(yaml.safe_dump({**raw, "network": {"factory": "json:loads"}}))
    assert main(["check", str(written), "--workspace", str(tmp_path / "workspace")]) == 2
    told = capsys.readouterr().err
    assert "`image_models.a.objective` is sparse, which needs the bottleneck of the network" in told
    assert "choose denoising or masked" in told
