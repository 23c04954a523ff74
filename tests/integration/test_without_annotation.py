"""A study that also asks what source networks are worth without any annotated target patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.image_file import read_volume
from pipeline.cli import main
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.label_efficiency import LabelEfficiency
from pipeline.evaluation.tables import SummaryRow
from pipeline.storage.tensors import load_tensors
from tests.conftest import empty_figures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("without-annotation")
    training = {
        "arms": {"random": None, "fine_tune": None, "fine_tune_ends": None},
        "sizes": [0, 1], "reference_sizes": [], "repeats": 2, "steps": 2,
    }  # fmt: skip
    cohort = write_cohort(folder / "cohort", 6)
    path = write_study(
        folder / "tiny.yaml", cohort, target_training=training, source={"dataset": "left", "patients": 2},
        target={"dataset": "right", "pool": 1, "test": 3},
    )  # fmt: skip
    raw = yaml.safe_load(path.read_text())
    raw["datasets"]["left"]["foreground"] = raw["datasets"]["right"]["foreground"] = {"disc": ["right"]}
    raw["source_training"] = {"networks": 1, "cycles": 1, "steps_per_cycle": 3, "warm_up": 1, "validation_cases": 1}
    raw["evaluation"] |= {"calibration": None, "space": "preprocessed"}
    raw["execution"] = {"backend": "in_process", "workers": 0}
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def command(config: Path, stage: str, *more: str) -> int:
    return main([stage, str(config), "--workspace", str(config.parent / "workspace"), "--jobs", "1", *more])


@pytest.fixture(scope="module")
def workspace(config: Path) -> Path:
    with empty_figures():
        assert command(config, "run") == 0
    return config.parent / "workspace"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_source_networks_are_tested_as_they_are(workspace: Path) -> None:
    first, second = (read(workspace / f"infer/fine_tune/n00/repeat-{k}/unit.json") for k in range(2))
    assert (first["steps"], first["patients"], first["objective"]) == (0, [], "none (source networks as they are)")
    # Nothing differs between repeats, so nothing is done twice.
    assert first["trainings"] == second["trainings"]
    assert first["predictions"] == second["predictions"]
    network = load_tensors(workspace / "train-source/network-00/snapshot-00.safetensors")
    stem = next(name for name in network if name.startswith("stem."))
    member = load_tensors(workspace / "train-target" / first["trainings"][0] / "member.safetensors")
    assert (member[f"network.{stem}"] == network[stem]).all()
    assert not (workspace / "infer/random/n00").exists()


def test_tables_have_a_gap_and_the_report_says_why(workspace: Path) -> None:
    summary = read_rows(workspace / "results/summary.csv", SummaryRow)
    assert {row.arm for row in summary if row.n == 0} == {"fine_tune", "fine_tune_ends"}
    assert {row.n for row in read_rows(workspace / "results/label_efficiency.csv", LabelEfficiency)} <= {1}
    page = (workspace / "report/index.html").read_text()
    assert "random: its network starts at random" in page
    assert "holds no history" not in page
    assert "random at n = 0" not in page
    assert "“fine_tune” and “fine_tune_ends” were each the source network" in page
    assert "0, 1" in page.split("n, target patients")[1][:100]
    # What was minimised is told of the trainings, and not of the networks that are as they are.
    assert "source networks as they are)" not in page.split('id="methods"')[1]


def test_the_model_predicts_and_is_exported(workspace: Path, config: Path, tmp_path: Path) -> None:
    model = workspace / "infer/fine_tune/n00/repeat-0/model"
    about = read(model / "model.json")
    assert about["training_patients"] == 0
    assert "fingerprint" not in about
    scan = config.parent / "cohort/imagesTr/case_0.nii.gz"
    assert main(["predict", str(model), str(scan), "--output", str(tmp_path / "out")]) == 0
    assert read_volume(tmp_path / "out/case_0/case_0.nii.gz").array.any()
    assert main(["export", str(model), "--output", str(tmp_path / "bundle")]) == 0
    assert "No annotated case of the target was learned from" in (tmp_path / "bundle/docs/README.md").read_text()


def test_a_dry_run_says_who_is_left_out(workspace: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(config, "run", "--dry-run") == 0
    assert "infer, random: no model of n = 0, because its network starts at random" in capsys.readouterr().out


def test_a_source_of_another_task_is_refused_before_any_training(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(config.read_text())
    raw["datasets"]["left"]["foreground"] = {"ball": ["left"]}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert main(["check", str(tmp_path / "other.yaml"), "--workspace", str(tmp_path / "w"), "--jobs", "1"]) == 2
    told = capsys.readouterr().err
    assert "arm 'fine_tune' with n = 0 needs a source of the target's task" in told
    assert "the source has the classes ball, and the target disc" in told
