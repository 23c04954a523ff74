"""`graft adapt` from five annotated scans and a pack to a model, killed and continued, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.image_file import read_volume, write_volume
from pipeline.cli import main

pytestmark = pytest.mark.slow

TINY = (
    "target_training.steps=4",
    # Readings are fitted in other tests; here that would be four times as many trainings.
    "target_training.inner_folds=0",
    "evaluation.resamples=200",
    "report={overlay_arms: 1, case_arms: 1, case_pages: 1, quality_cases: 1, thumbnail_width: 200, dpi: 50}",
    "report.vector_figures=false",
    "report.audited_cases=1",
)
OPTIONS = ["--jobs", "1", "--device", "cpu", "--steps-per-second", "5", "--budget", "3h"]
OPTIONS += [word for change in TINY for word in ("--set", change)]


@pytest.fixture(scope="module")
def scans(write_cohort: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = write_cohort(tmp_path_factory.mktemp("adapt") / "my scans", cases=5)
    scan = read_volume(folder / "imagesTr/case_0.nii.gz")
    later = scan.with_array(scan.array + np.random.default_rng(0).normal(0, 5, scan.shape).astype(np.float32))
    write_volume(later, folder / "imagesTr/later.nii.gz")
    about = json.loads((folder / "dataset.json").read_text())
    about["training"].append({"image": "./imagesTr/later.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps(about))
    with (folder / "patients.csv").open("a") as stream:
        stream.write("later,P5\n")
    return folder


def words(scans: Path, pack: Path, output: Path) -> list[str]:
    arms = ["--arms", "random,fine_tune"]
    return ["adapt", str(scans), "--source", str(pack), "--output", str(output), *arms, *OPTIONS]


@pytest.fixture(scope="module")
def finished(scans: Path, tiny_pack: Path) -> tuple[Path, str]:
    """The model folder, and what the command told."""
    output = scans.parent / "my-model"
    with redirect_stdout(StringIO()) as told:
        assert main(words(scans, tiny_pack, output)) == 0
    return output, told.getvalue()


def weights(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def test_it_ends_with_three_sentences_and_a_model(finished: tuple[Path, str], scans: Path, tmp_path: Path) -> None:
    output, told = finished
    assert re.search(r"Cross-validated Dice of fine_tune on your 5 patients: 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]\.", told)
    assert re.search(r"over training from scratch, paired by patient: [+−]?0\.\d{3} \[[+−]?0", told)
    assert re.search(r"Look first at the annotation of case_\d \(Dice 0\.\d{3}(, stands out)?\), case_\d", told)
    with (output.parent / "my-model-study/results/label_audit.csv").open(newline="") as stream:
        worst = next(csv.DictReader(stream))
    assert f"annotation of {worst['case']} (Dice {float(worst['dice']):.3f}" in told
    assert f"Without annotation: 1 scan; `graft predict {output} '{scans}' --unannotated" in told
    assert f"The model is {output}; segment new scans" in told
    assert (output.parent / "my-model-study/report/index.html").is_file()
    held = {path.name for path in output.iterdir()}
    assert held == {"model.json", "member-00.safetensors", "gate.safetensors", "SHA256SUMS", "files.json"}
    final = output.parent / "my-model-study/infer/fine_tune/n05/repeat-0/model"
    assert (output / "model.json").read_bytes() == (final / "model.json").read_bytes()
    image = scans / "imagesTr/case_0.nii.gz"
    assert main(["predict", str(output), str(image), "--output", str(tmp_path / "p"), "--device", "cpu"]) == 0


def test_the_gain_is_that_of_the_tables(finished: tuple[Path, str]) -> None:
    output, told = finished
    text = (output.parent / "my-model-study/results/comparisons.csv").read_text().splitlines()
    header, *rows = [line.split(",") for line in text]
    own = [dict(zip(header, row, strict=True)) for row in rows]
    # Two arms: the better one is the rival of the other.
    [row] = [row for row in own if row["metric"] == "dice"]
    sign = 1 if row["arm"] == "fine_tune" else -1
    found = re.search(r"paired by patient: ([+−]?\d\.\d{3})", told)
    assert found is not None
    assert float(found[1].replace("−", "-")) == pytest.approx(sign * float(row["difference"]), abs=5e-4)


def test_the_same_command_again_finds_nothing_to_do(
    finished: tuple[Path, str], scans: Path, tiny_pack: Path, capsys: pytest.CaptureFixture[str], caplog: Any
) -> None:
    output, told = finished
    study, model = (output.parent / "my-model-study/study.yaml").read_bytes(), weights(output)
    caplog.set_level("INFO")
    assert main(words(scans, tiny_pack, output)) == 0
    again = capsys.readouterr().out
    assert "Continuing with the study that was planned" in again
    assert next(line for line in told.splitlines() if line.startswith("Gain")) in again
    done = [message for message in caplog.messages if "to do" in message]
    assert done
    assert all("nothing to do" in message for message in done)
    assert (output.parent / "my-model-study/study.yaml").read_bytes() == study
    assert weights(output) == model


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--budget", "4h"], "was planned with --budget 3h, and now it is --budget 4h"),
        (["--patients", "4"], "was planned with no --patients, and now it is --patients 4"),
        (["--set", "seed=3"], "was planned with --set"),
    ],
)
def test_another_request_is_refused_and_nothing_is_lost(
    finished: tuple[Path, str],
    scans: Path,
    tiny_pack: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    told: str,
) -> None:
    output, _ = finished
    model = weights(output)
    assert main([*words(scans, tiny_pack, output), *more]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert weights(output) == model


def started(command: list[str]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "pipeline.cli", *command]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the command and its workers, one of which would hold the lock until it notices."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not there() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert there()


def test_killed_in_the_middle_it_goes_on_with_the_study_as_it_stands_to_the_same_model(
    finished: tuple[Path, str], scans: Path, tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "my-model"
    command = words(scans, tiny_pack, output)
    process = started(command)
    study, folder = tmp_path / "my-model-study/study.yaml", tmp_path / "my-model-study/train-target"
    wait_for(lambda: len(list(folder.rglob("training.json"))) > 2, process)
    kill(process)
    assert not output.exists()
    before = {path.parent.name for path in folder.rglob("training.json")}
    # What somebody wrote into the study counts.
    raw = yaml.safe_load(study.read_text())
    study.write_text(yaml.safe_dump({**raw, "target": {"dataset": "target", "patients": "all", "folds": 2}}))
    assert main(command) == 0
    assert "Continuing with the study that was planned" in capsys.readouterr().out
    # Which arm is the better one may differ with the folds.
    final = "my-model-study/infer/fine_tune/n05/repeat-0/model"
    assert weights(tmp_path / final) == weights(finished[0].parent / final)
    assert weights(output)
    # Two folds and the final model, each of two arms.
    used = (json.loads(path.read_text()) for path in (tmp_path / "my-model-study/infer").rglob("unit.json"))
    assert [len(own["predictions"]) for own in used] == [2, 2]
    assert len({path.parent.name for path in folder.rglob("training.json")} - before) <= 6


def test_two_patients_from_scratch_give_a_model_without_interval(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "two"
    command = ["adapt", str(scans), "--scratch", "--modality", "mr", "--patients", "2", "--output", str(output)]
    small = ["network.channels=[4,6]", "network.encoder_blocks=[0,1]", "patches.size=[12,12,12]", "patches.batch=1"]
    assert main([*command, *OPTIONS, *[word for change in small for word in ("--set", change)]]) == 0
    told = capsys.readouterr().out
    assert "(no interval: 2 test patients are too few for an interval)" in told
    assert "the model learned from scratch" in told
    assert (output / "model.json").is_file()


def test_one_patient_gives_a_model_and_plainly_no_estimate(
    scans: Path, tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output, workspace = tmp_path / "one", tmp_path / "one-study"
    command = ["adapt", str(scans), "--source", str(tiny_pack), "--patients", "1", "--output", str(output), *OPTIONS]
    caplog.set_level("INFO")
    assert main(command) == 0
    assert any("nobody is left to say how good it is" in message for message in caplog.messages)
    assert any("evaluate: skipped, because the study tests nobody" in message for message in caplog.messages)
    assert "No estimate: nobody was tested" in capsys.readouterr().out
    # The default arm alone: there is nothing to compare.
    assert [path.name for path in (workspace / "infer").iterdir()] == ["multi_swag_calibrated"]
    assert not (workspace / "results").exists()
    page = " ".join((workspace / "report/index.html").read_text().split())
    assert "The study tests nobody, so nothing says how good its models are" in page
    assert "and nobody was tested. Splits" in page
    assert "the evaluate stage writes" not in page
    assert main(["predict", str(output), str(scans / "imagesTr/case_4.nii.gz"), "--output", str(tmp_path / "p")]) == 0
    assert main(["export", str(output), "--study", str(workspace), "--output", str(tmp_path / "b")]) == 0
    assert "Not evaluated: the study tested nobody." in (tmp_path / "b/docs/README.md").read_text()
    assert main(command) == 0


def test_folders_of_others_are_left_alone(
    scans: Path, tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    assert main(words(scans, tiny_pack, taken)) == 2
    assert "holds files but no files.json" in capsys.readouterr().err
    beside = tmp_path / "model-study"
    beside.mkdir()
    # What a command leaves that was killed while it planned is no reason to refuse.
    (beside / ".lock").write_text("{}")
    assert main([*words(scans, tiny_pack, tmp_path / "model"), "--budget", "1s"]) == 2
    assert "too short for" in capsys.readouterr().err
    (beside / "notes.txt").write_text("mine")
    assert main(words(scans, tiny_pack, tmp_path / "model")) == 2
    assert "model-study: exists already, and no `graft adapt` began it" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["notes.txt", "notes.txt"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--budget", "1s"], "too short for"),
        (["--foreground", "middle"], "not declared"),
        (["--patients", "9"], "--patients asks for 9 patients, and 5 are annotated"),
        (["--set", "nonsense"], "--set nonsense: is not an assignment"),
    ],
)
def test_what_cannot_be_adapted_leaves_nothing_behind(
    scans: Path, tiny_pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    output = tmp_path / "model"
    assert main([*words(scans, tiny_pack, output), *more]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    # The same command with the fault mended starts anew.
    assert not (tmp_path / "model-study/study.yaml").exists()
    assert not output.exists()
