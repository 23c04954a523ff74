"""A study in which arms learn from scans whose labels are withheld, in rounds that are chosen out of fold."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import ConfigError
from pipeline.cli import main
from pipeline.config.reading import read_config
from pipeline.execution.unit import MARKER
from pipeline.storage.cached_case import ARRAYS
from pipeline.storage.tensors import load_tensors

pytestmark = pytest.mark.slow

STUDENT = {"preset": "random", "unlabelled": {"kind": "self_training", "span": 50.0}}


@pytest.fixture(scope="module")
def config(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("self-training")
    training = {
        "arms": {"random": None, "student": STUDENT},
        "sizes": [2, 3], "reference_sizes": [], "repeats": 1, "steps": 4,
    }  # fmt: skip
    target = {"pool": 3, "test": 1, "unlabelled": {"withhold_labels": True}}
    path = write_study(folder / "tiny.yaml", write_cohort(folder / "cohort"), target=target, target_training=training)
    raw = yaml.safe_load(path.read_text())
    del raw["source"], raw["datasets"]["left"]
    # A process of its own would take longer to start than these trainings take.
    raw["execution"] = {"backend": "in_process", "workers": 0}
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def run(config: Path, root: Path, *stages: str) -> None:
    for stage in stages:
        assert main([stage, str(config), "--workspace", str(root), "--jobs", "1"]) == 0


@pytest.fixture(scope="module")
def workspace(config: Path) -> Path:
    root = config.parent / "workspace"
    run(config, root, "check", "preprocess", "infer")
    return root


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def trainings(workspace: Path) -> dict[str, dict[str, Any]]:
    """Digest → record of every training."""
    paths = workspace.glob("train-target/*/*/*/training.json")
    return {read(path.parent / MARKER)["digest"]: read(path) for path in paths}


def students(workspace: Path) -> list[Path]:
    """Folders of the trainings that learned from unlabelled scans."""
    return [path.parent for path in workspace.glob("train-target/*/*/*/training.json") if "pseudo" in path.read_text()]


def test_the_round_that_predicts_training_patients_best_is_kept(workspace: Path) -> None:
    chosen = [read(path) for path in workspace.glob("keep-rounds/*/*/*/round.json")]
    # Of two patients nothing can be chosen.
    assert len(chosen) == 1
    for own in chosen:
        assert (len(own["dice"]), own["patients"]) == (2, 3)
        assert own["kept"] == own["dice"].index(max(own["dice"]))
    few, more = (read(workspace / f"infer/student/n{n:02d}/repeat-0/unit.json") for n in (2, 3))
    assert few["kept_rounds"] == [1]
    assert few["round_dice"] == []
    assert {"kept": more["kept_rounds"][0], "dice": more["round_dice"], "patients": 3} in [
        {key: own[key] for key in ("kept", "dice", "patients")} for own in chosen
    ]
    assert more["choices"]["unlabelled"]["rounds"] == more["kept_rounds"][-1]
    plain = read(workspace / "infer/random/n03/repeat-0/unit.json")
    assert not {"kept_rounds", "round_dice"} & set(plain)


def test_students_learn_from_what_members_that_saw_the_same_patients_predict(workspace: Path) -> None:
    records = trainings(workspace)
    plan = read(workspace / "check/study/study.json")
    unlabelled = {case for cases in plan["unlabelled"].values() for case in cases}
    assert len(unlabelled) == 5
    assert set(plan["withheld"]) == unlabelled
    for case in unlabelled:
        assert "label" not in load_tensors(workspace / "preprocess/right" / case / ARRAYS)
    taught = {read(path)["digest"]: path.parent for path in workspace.glob(f"predict-unlabelled/*/*/*/{MARKER}")}
    assert students(workspace)
    for folder in students(workspace):
        record, recipe = read(folder / "training.json"), read(folder / MARKER)["recipe"]
        teacher = taught[recipe["pseudo_labels"]]
        made_by = [records[digest] for digest in read(teacher / MARKER)["recipe"]["trainings"]]
        assert [own["patients"] for own in made_by] == [record["patients"]]
        assert "pseudo_labels" not in made_by[0]
        assert {path.stem for path in teacher.glob("*.safetensors")} == unlabelled
        told = record["pseudo_labels"]
        assert set(told["entered"]) | set(told["left_out"]) == unlabelled
        assert told["uncertainty"] == "predictive_entropy"
    # The teachers are those of the models, and of three inner folds where the round is chosen; round 0 is `random`.
    assert {len(list(workspace.glob(f"predict-unlabelled/{n}/*/*"))) for n in ("n02", "n03")} <= {1, 3, 4}
    own = read(workspace / "infer/random/n02/repeat-0/unit.json")["trainings"]
    of_student = read(workspace / "infer/student/n02/repeat-0/unit.json")["trainings"]
    assert set(own).isdisjoint(of_student)
    first = read(workspace / "train-target" / of_student[0] / MARKER)["recipe"]["pseudo_labels"]
    [teacher] = read(taught[first] / MARKER)["recipe"]["trainings"]
    assert teacher == read(workspace / "train-target" / own[0] / MARKER)["digest"]


def contents(workspace: Path) -> dict[str, str]:
    kinds = ("train-target", "predict-unlabelled", "predict-test", "keep-rounds", "infer")
    files = [path for kind in kinds for path in (workspace / kind).rglob("*") if path.is_file() and path.name != MARKER]
    return {str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_lost_in_the_middle_is_made_again_with_the_same_bytes(
    workspace: Path, config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "workspace"
    shutil.copytree(workspace, root)
    before = contents(root)
    # A teacher's predictions that only finished students learned from are not needed any more.
    shutil.rmtree(root / "predict-unlabelled/n02")
    run(config, root, "infer")
    assert not (root / "predict-unlabelled/n02").exists()
    shutil.rmtree(root / "predict-unlabelled")
    shutil.rmtree(root / "keep-rounds")
    for folder in (*students(root), root / "predict-test", root / "infer"):
        shutil.rmtree(folder)
    run(config, root, "infer")
    assert contents(root) == before


def test_a_dry_run_says_what_a_round_costs(
    workspace: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in (tmp_path / "none", workspace):
        assert main(["run", str(config), "--workspace", str(root), "--dry-run"]) == 0
        # With two patients the model alone; with three, another one for each of three inner folds.
        told = "student: each of up to 1 round of self-training costs up to 5 trainings"
        assert told in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("unlabelled", "words"),
    [(None, "arm 'student' learns from unlabelled scans, and the study names none"), (4, "has 4")],
)
def test_an_arm_without_enough_scans_is_refused(
    unlabelled: int | None, words: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(config.read_text())
    del raw["target"]["unlabelled"]
    if unlabelled:
        raw["target"]["unlabelled"] = {"cases": unlabelled, "withhold_labels": True}
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(raw))
    if unlabelled is None:
        with pytest.raises(ConfigError, match=words):
            read_config(path)
    assert main(["check", str(path), "--workspace", str(tmp_path / "workspace"), "--jobs", "1"]) == 2
    assert words in capsys.readouterr().err
