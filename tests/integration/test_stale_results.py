"""Digests decide: no command builds on, shows or gives away what was made with other settings or inputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data.image_file import read_label, write_volume
from pipeline.cli import main
from pipeline.deployment.model_folder import model_digest
from pipeline.evaluation.evaluated_models import read_evaluated
from pipeline.training.computing import has_bfloat16

pytestmark = pytest.mark.slow

# Without densities of its own, a study of these arms has no use for filter priors.
SMALL = {
    "priors": None,
    "computing": {"precision": "auto"},
    "evaluation": {"resamples": 100, "space": "native"},
    "target_training": {"arms": ["random", "fine_tune"], "sizes": [2], "reference_sizes": [], "repeats": 1, "steps": 3},
}


@pytest.fixture(scope="module")
def once(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that ran."""
    folder = tmp_path_factory.mktemp("stale")
    config = small(write_study(folder / "tiny.yaml", write_cohort(folder / "cohort")))
    assert main(["run", str(config), "--workspace", str(folder / "workspace"), "--jobs", "1"]) == 0
    return folder


def small(config: Path) -> Path:
    raw = yaml.safe_load(config.read_text())
    raw |= {key: value for key, value in SMALL.items() if value is not None}
    raw.pop("priors")
    config.write_text(yaml.safe_dump(raw, sort_keys=False))
    return config


@pytest.fixture
def study(once: Path, write_study: Callable[..., Path], tmp_path: Path) -> Callable[..., int]:
    """Returns a function that runs a command on a copy of the study."""
    for name in ("cohort", "workspace"):
        shutil.copytree(once / name, tmp_path / name)
    config = small(write_study(tmp_path / "tiny.yaml", tmp_path / "cohort"))

    def run(command: str, *more: str) -> int:
        return main([command, str(config), "--workspace", str(tmp_path / "workspace"), "--jobs", "1", *more])

    return run


def test_nothing_is_fitted_that_no_arm_uses(once: Path) -> None:
    workspace = once / "workspace"
    assert (workspace / "train-source/network-00/done.json").is_file()
    assert not (workspace / "collect-filters").exists()
    assert not (workspace / "fit-priors").exists()
    page = (workspace / "report/index.html").read_text()
    assert "No arm of this study uses a filter prior" in page
    assert "Filter priors were learned" not in page
    assert "Made with settings other than those" not in page


def test_a_workspace_goes_on_in_its_precision_on_another_machine(
    study: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tmp_path / "workspace"
    began = has_bfloat16("cpu")
    precision = "bfloat16" if began else "float32"
    stages = json.loads((workspace / "provenance.json").read_text())["stages"]
    assert stages["train-source"]["precision"] == stages["train-target"]["precision"] == precision
    assert f">{precision}<" in (workspace / "report/index.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("done.json")}
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not began)
    # One more arm learns in the precision of the others, which are left alone.
    assert study("infer", "--set", "target_training.arms=[random, fine_tune, fine_tune_ends]") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    added = json.loads((workspace / "infer/fine_tune_ends/n02/repeat-0/done.json").read_text())
    assert added["recipe"]["training"]["computing"]["precision"] == precision


def test_a_replaced_test_label_is_noticed(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plan = json.loads((tmp_path / "workspace/check/study/study.json").read_text())["split"]
    [case] = next(iter(plan["test"].values()))
    path = tmp_path / "cohort/labelsTr" / f"{case}.nii.gz"
    label = read_label(path)
    write_volume(label.with_array(np.roll(label.array, 1, axis=0).astype(np.uint8)), path)
    capsys.readouterr()
    assert study("evaluate") == 2
    message = capsys.readouterr().err
    assert "check/study: this result of `check` was made with other settings or inputs" in message
    assert "graft check CONFIG" in message
    assert study("check") == 0
    assert study("evaluate") == 2
    assert f"preprocess/right/{case}: this result of `preprocess`" in capsys.readouterr().err
    assert study("report") == 0
    page = (tmp_path / "workspace/report/index.html").read_text()
    assert "Made with settings other than those" in page
    assert f"preprocess of right/{case} was made with other settings or inputs" in page
    # The labels are not part of what was learned and predicted.
    kept = {
        path: path.stat().st_mtime_ns
        for kind in ("train-target", "predict-test")
        for path in (tmp_path / "workspace" / kind).rglob("*.safetensors")
    }
    before = (tmp_path / "workspace/results/cases.csv").read_bytes()
    assert study("run") == 0
    assert kept
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (tmp_path / "workspace/results/cases.csv").read_bytes() != before


def test_changed_patients_and_class_names_are_noticed(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = tmp_path / "cohort/patients.csv"
    rows = table.read_text()
    table.write_text(rows.replace("case_1,P1\n", "case_1,P0\n"))
    assert study("infer") == 2
    assert "`check`" in capsys.readouterr().err
    table.write_text(rows)
    assert study("infer") == 0
    description = tmp_path / "cohort/dataset.json"
    description.write_text(description.read_text().replace('"2": "right"', '"2": "left", "1": "right"', 1))
    raw = json.loads(description.read_text())
    raw["labels"] = {"0": "background", "1": "right", "2": "left"}
    description.write_text(json.dumps(raw))
    assert study("infer") == 2
    assert "`check`" in capsys.readouterr().err


def test_a_workspace_without_its_raw_scans_is_as_good(study: Callable[..., int], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cohort")
    assert study("infer") == 0
    assert study("report") == 0
    assert "Made with settings other than those" not in (tmp_path / "workspace/report/index.html").read_text()


def test_the_report_of_a_changed_option_says_so_and_describes_what_it_shows(
    study: Callable[..., int], tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    recorded = (workspace / "config.resolved.yaml").read_text()
    assert study("report", "--set", "target_training.steps=77", "--set", "evaluation.resamples=120") == 0
    page = (workspace / "report/index.html").read_text()
    assert "Made with settings other than those" in page
    assert "<code>training.steps</code>: 3, now 77" in page
    assert "<code>resamples</code>: 100, now 120" in page
    assert (workspace / "config.resolved.yaml").read_text() == recorded
    assert study("report") == 0
    assert "Made with settings other than those" not in (workspace / "report/index.html").read_text()


def test_no_old_number_is_on_the_card_of_a_model_that_was_trained_again(
    study: Callable[..., int], tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    model = workspace / "infer/fine_tune/n02/repeat-0/model"
    tables = read_evaluated(workspace / "results")
    assert tables is not None
    assert tables.holds(model_digest(model))
    export = ["export", str(model), "--set", "onnx=false", "--output"]
    assert main([*export, str(tmp_path / "before")]) == 0
    assert "| Dice |" in (tmp_path / "before/docs/README.md").read_text()
    assert study("infer", "--set", "target_training.arms.fine_tune.peak_rate=0.0001") == 0
    assert main([*export, str(tmp_path / "after")]) == 0
    card = (tmp_path / "after/docs/README.md").read_text()
    assert "| Dice |" not in card
    assert "not of this model" in card
    assert "Networks were trained on the source dataset" in card
    assert "ilter priors" not in card
    assert study("evaluate", "--set", "target_training.arms.fine_tune.peak_rate=0.0001") == 0
    assert main([*export, str(tmp_path / "measured")]) == 0
    assert "| Dice |" in (tmp_path / "measured/docs/README.md").read_text()
