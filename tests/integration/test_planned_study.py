"""`graft init` on a small cohort, and the study that it wrote: checked, run, and planned as it was counted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.image_file import read_volume, write_volume
from pipeline.cli import main
from pipeline.config.reading import read_config

TINY = [
    "target_training.steps=4",
    "source_training.steps_per_cycle=3",
    "source_training.warm_up=1",
    "source_training.cycles=1",
    "source_training.validation_cases=1",
    "network.channels=[4,6]",
    "network.encoder_blocks=[0,1]",
    "patches.size=[12,12,12]",
    "patches.batch=1",
    "evaluation.resamples=100",
    "report={overlay_arms: 1, case_arms: 1, case_pages: 1, quality_cases: 1, thumbnail_width: 200, dpi: 50}",
    "report.audited_cases=1",
]


@pytest.fixture
def target(write_cohort: Callable, tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "my scans: 1", cases=4)


@pytest.fixture
def source(write_cohort: Callable, tmp_path: Path) -> Path:
    return write_cohort(tmp_path / "source", cases=5)


@pytest.fixture
def init(target: Path, source: Path, tmp_path: Path) -> Callable[..., int]:
    def run(*words: str) -> int:
        return main(
            [
                *("init", str(target), "--source", str(source), "--output", str(tmp_path / "study.yaml")),
                *("--jobs", "1", "--device", "cpu", "--modality", "mr", "--steps-per-second", "5", *words),
            ]
        )

    return run


@pytest.mark.slow
def test_what_init_writes_is_checked_and_runs(
    init: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The default arm has three members, which would be as many more trainings.
    arms = ["--arms", "random,swag_calibrated"]
    assert init("--foreground", "right", "--budget", "3h", *arms) == 0
    told = capsys.readouterr().out
    for words in ("4 annotated patients are cross-validated", "right 1.000 (median)", "22 trainings", "with a fifth"):
        assert words in told
    path, workspace = tmp_path / "study.yaml", tmp_path / "workspace"
    text = path.read_text()
    assert "Best Dice that this grid allows" in text
    config = read_config(path)
    assert config.target.folds == "leave_one_out"
    assert config.datasets["target"].classes == {"right": (2,)}
    assert config.datasets["source"].classes == {"left": (1,), "right": (2,)}
    assert config.datasets["target"].preprocessing.resampling is not None
    assert config.datasets["target"].preprocessing.resampling.spacing == (2.0, 2.0, 2.0)
    tiny = [word for change in TINY for word in ("--set", change)]
    where = ["--workspace", str(workspace), "--jobs", "1", "--device", "cpu"]
    assert main(["check", str(path), *where]) == 0
    assert main(["run", str(path), *where, *tiny]) == 0
    # As many trainings as the plan counted: of both arms on each of four folds, on all, and on each of the six pairs
    # of patients in the inner folds, because all arms fit their reading.
    assert len(list((workspace / "train-target").rglob("training.json"))) == 22
    assert len(list((workspace / "train-source").rglob("snapshot-00.safetensors"))) == 1
    assert (workspace / "report/index.html").is_file()


@pytest.mark.slow
def test_the_same_scans_give_the_same_study_and_no_file_is_replaced(
    init: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init() == 0
    first = (tmp_path / "study.yaml").read_bytes()
    assert init() == 2
    assert "exists already" in capsys.readouterr().err
    assert init("--force") == 0
    assert (tmp_path / "study.yaml").read_bytes() == first
    assert init("--force", "--budget", "1s") == 2
    assert (tmp_path / "study.yaml").read_bytes() == first


def test_without_steps_per_second_the_machine_is_timed(
    target: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "timed.yaml"
    words = ["init", str(target), "--source", str(source), "--modality", "mr", "--output", str(output)]
    assert main([*words, "--device", "cpu", "--jobs", "1", "--budget", "1000h"]) == 0
    # No machine is so slow that more than the longest training is not allowed, and none takes no time.
    assert read_config(output).target_training.steps == 1000
    told = capsys.readouterr().out
    found = re.search(r"a step takes ([\d.]+) s, a pass over a scan ([\d.]+) s", told)
    assert found is not None
    assert min(float(found[1]), float(found[2])) > 0
    assert "preprocessing: 0.0 s" not in told


def test_one_folder_is_source_and_target_with_other_patients(target: Path, tmp_path: Path) -> None:
    words = ["init", str(target), "--source", str(target), "--modality", "mr", "--jobs", "1"]
    words += ["--steps-per-second", "5", "--output", str(tmp_path / "one.yaml")]
    assert main(words) == 2
    assert main([*words, "--foreground", "left"]) == 0
    config = read_config(tmp_path / "one.yaml")
    assert (config.source.patients, config.target.pool) == (2, 2)
    assert config.datasets["source"].classes == {"right": (2,)}
    assert config.datasets["target"].classes == {"left": (1,)}


def test_voxels_without_annotation_and_tuned_rates_are_written_down(
    init: Callable[..., int], target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = target / "labelsTr/case_1.nii.gz"
    label = read_volume(path)
    unsure = label.array.astype(np.uint8)
    unsure[:2] = 255
    write_volume(label.with_array(unsure), path)
    assert init("--tune") == 2
    assert "name them in `ignore` of the study (`graft init --ignore`)" in capsys.readouterr().err
    assert init("--ignore", "255, right", "--tune", "--source-foreground", "left") == 0
    assert "too few patients to tune on" not in capsys.readouterr().out
    planned = yaml.safe_load((tmp_path / "study.yaml").read_text())
    assert planned["datasets"]["target"]["ignore"] == [255, 2]
    assert planned["datasets"]["target"]["foreground"] == {"left": [1]}
    assert "ignore" not in planned["datasets"]["source"]
    assert planned["target_training"]["tune"] == "inner_folds"
    assert read_config(tmp_path / "study.yaml").target_training.tune == "inner_folds"
    assert init("--force", "--foreground", "left", "--ignore", "left") == 2
    assert "label 'left' of `ignore` belongs to the foreground" in capsys.readouterr().err
    assert init("--force", "--ignore", "255", "--source-ignore", "1,2") == 2
    assert "nothing is labelled" in capsys.readouterr().err


def test_one_folder_has_the_same_voxels_without_annotation_in_both_roles(target: Path, tmp_path: Path) -> None:
    words = ["init", str(target), "--source", str(target), "--modality", "mr", "--jobs", "1", "--foreground", "left"]
    output = tmp_path / "one.yaml"
    assert main([*words, "--steps-per-second", "5", "--output", str(output), "--ignore", "7"]) == 0
    planned = yaml.safe_load(output.read_text())
    assert [entry["ignore"] for entry in planned["datasets"].values()] == [[7], [7]]


def without_labels(target: Path, cases: int) -> None:
    description = json.loads((target / "dataset.json").read_text())
    for entry in description["training"][len(description["training"]) - cases :]:
        (target / entry["label"]).unlink()
        del entry["label"]
    (target / "dataset.json").write_text(json.dumps(description))


def without_structure(target: Path) -> None:
    path = target / "labelsTr/case_1.nii.gz"
    label = read_volume(path)
    write_volume(label.with_array((label.array * (label.array == 1)).astype(np.uint8)), path)


def same_image(target: Path) -> None:
    without_labels(target, 1)
    shutil.copy(target / "imagesTr/case_0.nii.gz", target / "imagesTr/case_3.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words", "told"),
    [
        (lambda t: without_labels(t, 4), [], ["no patient is annotated"]),
        (without_structure, ["--foreground", "right"], ["case_1: label: no voxel has a value of the foreground (2)"]),
        (same_image, [], ["case_3", "holds the same voxels as T1 of case 'case_0'"]),
        (lambda t: None, ["--budget", "10s"], ["too short for 1 source and", "give `--budget"]),
        (lambda t: None, ["--budget", "soon"], ["--budget soon: is not a duration"]),
        (lambda t: None, ["--name", "a/b"], ["--name 'a/b'"]),
        (lambda t: None, ["--foreground", "middle"], ["not declared"]),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    init: Callable[..., int],
    target: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    words: list[str],
    told: list[str],
) -> None:
    damage(target)
    assert init(*words) == 2
    error = capsys.readouterr().err
    for part in told:
        assert part in error
    assert error.count("\n") == 1
    assert not (tmp_path / "study.yaml").exists()


def test_two_patients_are_planned_and_told_that_they_give_no_interval(
    init: Callable[..., int],
    target: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_labels(target, 2)
    assert init() == 0
    assert "two give no useful interval" in capsys.readouterr().out
    assert read_config(tmp_path / "study.yaml").target.folds == "leave_one_out"
    assert init("--force", "--tune") == 0
    assert "too few patients to tune on" in caplog.text


def test_what_the_checks_doubt_is_told_once_for_each_kind(
    init: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    assert init("--modality", "ct") == 0
    told = [record.getMessage() for record in caplog.records if "not a CT in Hounsfield units" in record.getMessage()]
    # Of the target and of the source.
    assert [text.split(";")[-1].split(",")[0] for text in told] == [" 3 more like it", " 4 more like it"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["no source is named", "--source with a source pack or a labelled dataset", "or --scratch"]),
        (["--source", "x", "--scratch"], ["both --source and --scratch are given"]),
        (["--scratch", "--arms", "random,fine_tune"], ["--arms: fine_tune needs a source, and there is none"]),
        (["--scratch", "--arms", "randon"], ["--arms: there is no preset 'randon'; known presets: random"]),
        (["--scratch", "--source-foreground", "left"], ["--source-foreground left: there is no source"]),
        (["--scratch", "--source-ignore", "7,8"], ["--source-ignore 7,8: there is no source"]),
        (["--source", "nowhere"], ["nowhere: there is no such folder"]),
        (["--source", "nowhere.pack"], ["nowhere.pack: there is no such file"]),
    ],
)
def test_what_is_wrong_with_the_source_is_one_sentence(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: list[str]
) -> None:
    output = tmp_path / "study.yaml"
    assert main(["init", str(target), "--modality", "mr", "--output", str(output), *words]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in told)
    assert error.count("\n") == 1
    assert not output.exists()


def test_without_a_source_one_arm_learns_from_scratch(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study.yaml"
    words = ["--scratch", "--modality", "mr", "--jobs", "1", "--steps-per-second", "5", "--budget", "30min"]
    assert main(["init", str(target), "--output", str(output), *words]) == 0
    config = read_config(output)
    assert config.source is None
    assert list(config.datasets) == ["target"]
    assert list(config.target_training.arms) == ["random"]
    assert "source" not in yaml.safe_load(output.read_text())
    told = capsys.readouterr().out
    assert "the arms learn from the target alone" in told
    assert "target: 11 trainings" in told
