"""A whole study through the command: its files, and doing nothing twice."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.image_file import read_volume, write_volume
from pipeline.cli import main
from pipeline.config.reading import read_config
from pipeline.storage.stage_names import Stage

pytestmark = pytest.mark.slow

CASES_HEADER = (
    "arm,n,repeat,case,patient,label,dice,iou,tp,fp,fn,empty,hd95,average_surface_distance,surface_dice,"
    "reference_ml,predicted_ml,relative_volume_error,lesions_reference,lesions_detected,lesions_predicted,lesions_true,"
    "lesion_sensitivity,lesion_precision,lesion_f1"
)
SUMMARY_HEADER = "arm,n,metric,mean,ci_low,ci_high,cases,patients"
ARMS = ("random", "fine_tune", "fine_tune_ends", "dwp")
TRAININGS = [(arm, n) for arm in ARMS for n in (1, 2)] + [("random", 3)]


def markers(workspace: Path) -> dict[str, int]:
    return {str(p.relative_to(workspace)): p.stat().st_mtime_ns for p in sorted(workspace.rglob("done.json"))}


def stage_markers(workspace: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for marker in markers(workspace):
        stage, _, key = marker.partition("/")
        found.setdefault(stage, []).append(key.removesuffix("/done.json"))
    return found


@pytest.fixture
def finished(finished_study: Any, write_study: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """The study and its workspace, in a place of the test's own."""
    return finished_study.copy(tmp_path, write_study)


def test_a_study_from_raw_scans_to_the_report(finished: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    config, workspace = finished
    _check_units(workspace)
    _check_tables(workspace)
    _check_records(config, workspace)
    for name in ("file-digests.json", "check/study/findings.json"):
        assert "/cohort" not in (workspace / name).read_text(), f"{name} says where this machine keeps the scans"
    page = (workspace / "report" / "index.html").read_text(encoding="utf-8")
    assert all(arm in page for arm in ARMS)
    assert "data:image/" in page
    assert 'src="http' not in page
    assert (workspace / "report" / "filters.html").is_file()
    assert "filters.html" in page
    # A second run does nothing: no marker is rewritten, no result differs.
    before, cases = markers(workspace), (workspace / "results" / "cases.csv").read_bytes()
    assert main(["run", str(config), "--workspace", str(workspace), "--jobs", "1"]) == 0
    assert markers(workspace) == before
    assert (workspace / "results" / "cases.csv").read_bytes() == cases
    stages = json.loads((workspace / "provenance.json").read_text())["stages"]
    assert all(stage["units_done"] == 0 and stage["units_reused"] == stage["units"] for stage in stages.values())
    assert all(stage["wall_seconds"] >= 0 for stage in stages.values())
    assert stages["preprocess"]["wall_seconds"] > 0
    assert "index.html" in capsys.readouterr().out


def _check_units(workspace: Path) -> None:
    units = stage_markers(workspace)
    assert units["check"] == ["study"]
    assert len(units["preprocess"]) == 8
    assert units["train-source"] == ["network-00", "network-01"]
    groups = units["collect-filters"]
    assert len(groups) >= 2
    assert units["measure-filters"] == units["compare-priors"] == groups
    densities = ("gaussian_full", "isotropic", "vae")
    assert units["fit-priors"] == units["score-priors"] == [f"{group}/{name}" for group in groups for name in densities]
    # No two of these arms learn alike.
    assert len(units["train-target"]) == len(units["predict-test"]) == len(TRAININGS)
    assert units["infer"] == units["evaluate"] == sorted(f"{arm}/n{n:02d}/repeat-0" for arm, n in TRAININGS)
    plan = json.loads((workspace / "check" / "study" / "study.json").read_text())["split"]
    roles = [set(patients) for patients in plan.values()]
    assert {role: len(patients) for role, patients in plan.items()} == {"source": 3, "pool": 3, "test": 2}
    assert len(set.union(*roles)) == 8
    # Every arm learned from the same patients, the smaller set inside the larger.
    subsets = {
        (arm, n): json.loads((workspace / "infer" / arm / f"n{n:02d}" / "repeat-0" / "unit.json").read_text())[
            "patients"
        ]
        for arm, n in TRAININGS
    }
    assert len({tuple(patients) for (_, n), patients in subsets.items() if n == 1}) == 1
    assert all(subsets[arm, 2][:1] == subsets[arm, 1] and len(subsets[arm, 2]) == 2 for arm in ARMS)
    assert subsets["random", 3][:2] == subsets["random", 2]
    scores = json.loads((workspace / "compare-priors" / groups[0] / "scores.json").read_text())
    assert set(scores["densities"]) == {"isotropic", "gaussian_full", "vae"}
    assert all(math.isfinite(density["mean"]) for density in scores["densities"].values())
    summary = json.loads((workspace / "collect-filters" / groups[0] / "summary.json").read_text())
    assert scores["kept"] <= scores["filters"] == summary["filters"]
    assert (summary["networks"], summary["snapshots"]) == ([0, 1], 2)


def _check_tables(workspace: Path) -> None:
    text = (workspace / "results" / "cases.csv").read_text()
    assert text.splitlines()[0] == CASES_HEADER
    rows = list(csv.DictReader(text.splitlines()))
    keys = [(row["arm"], row["n"], row["repeat"], row["case"], row["label"]) for row in rows]
    assert len(set(keys)) == len(keys) == len(TRAININGS) * 2
    assert {row["label"] for row in rows} == {"right"}
    for row in rows:
        tp, fp, fn = (int(row[name]) for name in ("tp", "fp", "fn"))
        assert tp + fn > 0
        assert float(row["dice"]) == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
        assert float(row["iou"]) == pytest.approx(tp / (tp + fp + fn), abs=1e-6)
    text = (workspace / "results" / "summary.csv").read_text()
    assert text.splitlines()[0] == SUMMARY_HEADER
    summary = {(row["arm"], row["n"], row["metric"]): row for row in csv.DictReader(text.splitlines())}
    for arm, n in TRAININGS:
        values = [float(row["dice"]) for row in rows if (row["arm"], row["n"]) == (arm, str(n))]
        found = summary[arm, str(n), "dice"]
        assert float(found["mean"]) == pytest.approx(sum(values) / len(values), abs=1e-5)
        assert (found["ci_low"], found["ci_high"]) == ("", "")
        assert (found["cases"], found["patients"]) == ("2", "2")
        assert (arm, str(n), "iou") in summary
    results = workspace / "results"
    # Where `random` is alone there is nothing to compare; its curve is longer by it.
    assert {row["n"] for row in csv.DictReader((results / "comparisons.csv").open())} == {"1", "2"}
    # Two test patients tell no arms apart.
    assert {row["difference"] for row in csv.DictReader((results / "comparisons.csv").open())} == {""}
    assert list(csv.DictReader((results / "label_efficiency.csv").open())) == []


def _check_records(config: Path, workspace: Path) -> None:
    resolved = read_config(workspace / "config.resolved.yaml")
    # The study was moved after it ran; what was resolved names the places of then.
    places = [f"datasets.{name}.path={dataset.path}" for name, dataset in resolved.datasets.items()]
    assert resolved == read_config(config, places, resolved.workspace)
    assert yaml.safe_load((workspace / "config.resolved.yaml").read_text())["sliding_window"]["overlap"] == 0.25
    record = json.loads((workspace / "provenance.json").read_text())
    assert record["seed"] == 4
    assert {"torch", "monai", "python"} <= set(record["versions"])
    assert "git_commit" in record
    assert set(record["inputs"]) == {"left", "right"}
    assert all(len(facts["sha256"]) == 64 and facts["cases"] == 9 for facts in record["inputs"].values())
    assert set(record["stages"]) >= {stage.value for stage in Stage} - {"report"}
    assert all(stage["peak_memory_gb"] > 0 for stage in record["stages"].values())


def test_a_trained_arm_predicts_a_raw_scan_on_its_own_grid(finished: tuple[Path, Path], tmp_path: Path) -> None:
    config, workspace = finished
    plan = json.loads((workspace / "check" / "study" / "study.json").read_text())["split"]
    [case] = next(iter(plan["test"].values()))
    scan = Path(yaml.safe_load(config.read_text())["datasets"]["right"]["path"]) / "imagesTr" / f"{case}.nii.gz"
    out = tmp_path / "predictions"
    arm = workspace / "infer" / "dwp" / "n02" / "repeat-0"
    assert main(["predict", str(arm), str(scan), "--output", str(out), "--samples", "2", "--device", "cpu"]) == 0
    given, mask, entropy = (
        read_volume(p) for p in (scan, out / case / f"{case}.nii.gz", out / case / f"{case}_entropy.nii.gz")
    )
    assert set(np.unique(mask.array)) == {0, 2}
    assert mask.same_grid(given, 1e-6)
    assert entropy.same_grid(given, 1e-6)
    assert entropy.array.max() > 0
    facts = json.loads((out / case / f"{case}.json").read_text())
    assert (facts["draws"], facts["model"]["arm"]) == (2, "dwp")
    [row] = csv.DictReader((out / "predictions.csv").read_text().splitlines())
    assert (row["case"], row["state"], row["structure"]) == (case, "done", "right")


def test_a_change_does_only_what_depends_on_it(finished: tuple[Path, Path]) -> None:
    config, workspace = finished
    before = markers(workspace)
    # One more arm: nothing that is there is done again.
    arms = "target_training.arms=[random, fine_tune, fine_tune_ends, dwp, prior_init]"
    command = ["run", str(config), "--workspace", str(workspace), "--jobs", "1"]
    assert main([*command, "--set", arms]) == 0
    after = markers(workspace)
    assert {key: after[key] for key in before} == before
    made = sorted(set(after) - set(before))
    assert {key.split("/")[0] for key in made} == {"train-target", "predict-test", "infer", "evaluate"}
    assert {key.split("/")[1] for key in made if key.startswith(("infer", "evaluate"))} == {"prior_init"}
    rows = list(csv.DictReader((workspace / "results" / "cases.csv").read_text().splitlines()))
    assert {row["arm"] for row in rows} == {*ARMS, "prior_init"}
    # How densities are scored changes no density, and so no arm. The reading of an arm is written again, and nothing is
    # trained or predicted.
    command += ["--set", "priors.score_samples=3", "--set", "target_training.arms.dwp.logit_temperature=2"]
    assert main(command) == 0
    changed = {key for key, stamp in markers(workspace).items() if after.get(key) != stamp}
    arms = {"/".join(key.split("/")[:2]) for key in changed if key.startswith(("infer", "evaluate"))}
    assert arms == {"infer/dwp", "evaluate/dwp"}
    assert {key.split("/")[0] for key in changed} == {"score-priors", "compare-priors", "infer", "evaluate"}
    after = markers(workspace)
    # One more draw is predicted by what is trained.
    assert main([*command, "--set", "target_training.arms.dwp.draws=9"]) == 0
    changed = {key for key, stamp in markers(workspace).items() if after.get(key) != stamp}
    assert {key.split("/")[0] for key in changed} == {"predict-test", "infer", "evaluate"}


def test_trainings_that_are_not_needed_may_be_deleted(finished: tuple[Path, Path]) -> None:
    config, workspace = finished
    where = [str(config), "--workspace", str(workspace), "--jobs", "1"]
    shutil.rmtree(workspace / "train-target")
    before = markers(workspace)
    assert main(["infer", *where]) == main(["evaluate", *where]) == 0
    assert markers(workspace) == before
    shutil.rmtree(workspace / "predict-test")
    assert main(["evaluate", *where]) == 2
    assert main(["infer", *where]) == main(["evaluate", *where]) == 0
    assert {key.split("/")[0] for key in set(markers(workspace)) - set(before)} == {"train-target"}


def test_results_of_an_older_layout_are_told_and_left_alone(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    config, workspace = finished
    for stage, folder in (
        ("infer", workspace / "infer/random/n01/repeat-0"),
        ("fit-priors", next((workspace / "fit-priors").iterdir())),
    ):
        (folder / "scores.json").write_text("{}")
        older = {"digest": "0", "files": {"scores.json": 2}, "recipe": {"version": 4}, "sha256": {}}
        (folder / "done.json").write_text(json.dumps(older))
        before = {path: path.stat().st_mtime_ns for path in (workspace / stage).rglob("*")}
        assert main(["run", str(config), "--workspace", str(workspace), "--jobs", "1"]) == 2
        message = capsys.readouterr().err
        assert f"{workspace / stage}: holds results of an older layout" in message
        assert {path: path.stat().st_mtime_ns for path in (workspace / stage).rglob("*")} == before
        (folder / "done.json").unlink()
        shutil.rmtree(folder)


def test_a_changed_scan_is_noticed(finished: tuple[Path, Path]) -> None:
    config, workspace = finished
    before = markers(workspace)
    plan = json.loads((workspace / "check" / "study" / "study.json").read_text())["split"]
    [case] = next(iter(plan["test"].values()))
    cohort = Path(yaml.safe_load(config.read_text())["datasets"]["left"]["path"])
    path = cohort / "imagesTr" / f"{case}.nii.gz"
    volume = read_volume(path)
    write_volume(volume.with_array((volume.array + 1).astype("int16")), path)
    assert main(["preprocess", str(config), "--workspace", str(workspace), "--jobs", "1"]) == 0
    changed = {key for key, stamp in markers(workspace).items() if before[key] != stamp}
    assert changed == {"check/study/done.json", f"preprocess/right/{case}/done.json"}


def test_the_results_do_not_depend_on_the_number_of_jobs(finished: tuple[Path, Path], tmp_path: Path) -> None:
    config, workspace = finished
    parallel = tmp_path / "parallel"
    assert main(["--jobs", "2", "--workspace", str(parallel), "run", str(config)]) == 0
    for name in ("cases.csv", "summary.csv"):
        assert (parallel / "results" / name).read_bytes() == (workspace / "results" / name).read_bytes()
    stored = [*workspace.rglob("*.safetensors")]
    assert stored
    for path in stored:
        assert (parallel / path.relative_to(workspace)).read_bytes() == path.read_bytes()


def test_a_stage_says_which_stage_it_needs(
    write_cohort: Callable[..., Path],
    write_study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    config = write_study(tmp_path / "tiny.yaml", write_cohort(tmp_path / "cohort"))
    for stage, needed in {
        "train-source": "check",
        "infer": "check",
    }.items():
        assert main([stage, str(config), "--workspace", str(tmp_path / stage)]) == 2
        assert f"run `graft {needed} CONFIG`" in capsys.readouterr().err
    workspace = ["--workspace", str(tmp_path / "workspace"), "--jobs", "1"]
    assert main(["check", str(config), *workspace]) == 0
    # The first thing that is missing is named, however far down the line the stage is.
    for stage in ("train-source", "collect-filters", "fit-priors", "evaluate"):
        assert main([stage, str(config), *workspace]) == 2, stage
        assert "`graft preprocess CONFIG`" in capsys.readouterr().err


def test_a_stage_alone_refuses_results_of_another_configuration(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    config, workspace = finished
    before = (workspace / "results" / "cases.csv").read_bytes()
    arguments = [str(config), "--workspace", str(workspace), "--jobs", "1"]
    assert main(["evaluate", *arguments, "--set", "target_training.arms.random.peak_rate=0.5"]) == 2
    message = capsys.readouterr().err
    assert "infer/random" in message
    assert "graft infer CONFIG" in message
    assert (workspace / "results" / "cases.csv").read_bytes() == before
    assert main(["evaluate", *arguments]) == 0
