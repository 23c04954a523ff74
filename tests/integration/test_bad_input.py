"""Bad input: one sentence with the path or key and the way out, exit code 2, and nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.image_file import read_label, write_volume
from data.volume import Volume
from pipeline.cli import main

pytestmark = pytest.mark.slow

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def preprocessed(
    write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a cohort and the workspace of a study that is preprocessed."""
    folder = tmp_path_factory.mktemp("preprocessed")
    config = write_study(folder / "tiny.yaml", write_cohort(folder / "cohort"))
    assert main(["preprocess", str(config), "--workspace", str(folder / "workspace"), "--jobs", "1"]) == 0
    return folder


@pytest.fixture
def cohort(preprocessed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(preprocessed / "cohort", tmp_path / "cohort"))


@pytest.fixture
def refused(write_study: Callable[..., Path], tmp_path: Path, cohort: Path, capsys: pytest.CaptureFixture) -> Refused:
    """Returns a function that runs the study, which must be refused, and returns the sentence."""

    def run(*overrides: str, command: str = "run", **changes: object) -> str:
        config = write_study(tmp_path / "tiny.yaml", cohort, **changes)
        capsys.readouterr()
        arguments = [word for override in overrides for word in ("--set", override)]
        workspace = ["--workspace", str(tmp_path / "workspace"), "--jobs", "1"]
        assert main([command, str(config), *arguments, *workspace]) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        sentences = [line for line in captured.err.splitlines() if line.startswith("graft: ")]
        assert len(sentences) == 1
        assert "to fix it" in sentences[0]
        assert sentences[0].endswith(".")
        return sentences[0]

    return run


def markers(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("done.json")}


def used_case(tmp_path: Path, role: str) -> str:
    plan = json.loads((tmp_path / "workspace" / "check" / "study" / "study.json").read_text())
    return next(iter(plan["split"][role].values()))[0]


@pytest.fixture
def checked(preprocessed: Path, tmp_path: Path) -> dict[str, int]:
    """The markers of the preprocessed study, whose workspace the test gets as its own."""
    shutil.copytree(preprocessed / "workspace", tmp_path / "workspace")
    return markers(tmp_path / "workspace")


def kept(checked: dict[str, int], tmp_path: Path) -> bool:
    """Whether the units of `preprocess` are there as they were."""
    now = markers(tmp_path / "workspace")
    return all(now.get(key) == stamp for key, stamp in checked.items() if key.startswith("preprocess"))


def test_a_missing_folder(refused: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    sentence = refused(f"datasets.right.path={folder}")
    assert f"{folder}: there is no such folder" in sentence
    assert "expected" in sentence


def test_an_unknown_key(refused: Refused, checked: dict, tmp_path: Path) -> None:
    sentence = refused("target_training.step=3")
    assert "`target_training.step` is unknown" in sentence
    assert "write `steps`" in sentence
    assert kept(checked, tmp_path)


def test_an_undeclared_label_value(refused: Refused, checked: dict, cohort: Path, tmp_path: Path) -> None:
    case = used_case(tmp_path, "test")
    path = cohort / "labelsTr" / f"{case}.nii.gz"
    label = read_label(path)
    array = label.array.copy()
    array[3:5, 3:5, 3:5] = 7
    write_volume(label.with_array(array.astype(np.uint8)), path)
    sentence = refused()
    assert case in sentence
    assert "7" in sentence
    assert str(cohort) in sentence
    assert kept(checked, tmp_path)


def test_a_label_that_the_study_names_but_no_dataset_declares(refused: Refused, cohort: Path) -> None:
    sentence = refused("datasets.right.foreground=[middle]")
    assert "middle" in sentence
    assert str(cohort) in sentence
    assert "left" in sentence


def test_an_image_without_a_label(refused: Refused, checked: dict, cohort: Path, tmp_path: Path) -> None:
    case = used_case(tmp_path, "pool")
    (cohort / "labelsTr" / f"{case}.nii.gz").unlink()
    sentence = refused()
    assert f"{case}" in sentence
    assert "label" in sentence
    assert kept(checked, tmp_path)


def test_a_listed_case_without_a_label(refused: Refused, cohort: Path) -> None:
    path = cohort / "dataset.json"
    content = json.loads(path.read_text())
    content["training"][2].pop("label")
    path.write_text(json.dumps(content))
    sentence = refused(
        "source={dataset: left, cases: [case_0, case_1]}",
        "target={dataset: right, pool_cases: [case_2, case_4], test_cases: [case_3]}",
    )
    assert "case_2" in sentence
    assert "`target.pool_cases`" in sentence
    assert "no label" in sentence


@pytest.mark.parametrize("damage", ["truncated", "no gzip", "empty"])
def test_a_corrupt_image(refused: Refused, checked: dict, cohort: Path, tmp_path: Path, damage: str) -> None:
    case = used_case(tmp_path, "source")
    path = cohort / "imagesTr" / f"{case}.nii.gz"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "no gzip": b"no image at all" * 50, "empty": b""}[damage])
    sentence = refused()
    assert path.name in sentence
    assert str(cohort) in sentence
    assert kept(checked, tmp_path)
    # After the fix, the study resumes where it stopped.
    path.write_bytes(whole)
    config = tmp_path / "tiny.yaml"
    assert main(["preprocess", str(config), "--workspace", str(tmp_path / "workspace"), "--jobs", "1"]) == 0
    assert kept(checked, tmp_path)


@pytest.mark.parametrize(
    ("source", "pool", "test", "roles"),
    [
        ("case_0, case_1", "case_2, case_3", "case_4", ("target.pool_cases", "target.test_cases")),
        ("case_0, case_3", "case_2, case_5", "case_4", ("source.cases", "target.test_cases")),
        ("case_0, case_3", "case_2, case_4", "case_5", ("source.cases", "target.pool_cases")),
    ],
)
def test_two_cases_of_one_patient_on_both_sides(
    refused: Refused, cohort: Path, source: str, pool: str, test: str, roles: tuple[str, str]
) -> None:
    table = (cohort / "patients.csv").read_text()
    (cohort / "patients.csv").write_text(table.replace("case_4,P4", "case_4,P3"))
    sentence = refused(
        f"source={{dataset: left, cases: [{source}]}}",
        f"target={{dataset: right, pool_cases: [{pool}], test_cases: [{test}]}}",
    )
    assert "'P3' is on both sides" in sentence
    assert "case_3" in sentence
    assert "case_4" in sentence
    assert all(f"`{role}`" in sentence for role in roles)


def test_too_few_patients(refused: Refused, cohort: Path) -> None:
    sentence = refused("source.patients=30")
    assert "30" in sentence
    assert "`source.patients`" in sentence
    assert str(cohort) in sentence


def test_a_size_above_the_pool_is_told_before_anything_is_trained(refused: Refused, tmp_path: Path) -> None:
    sentence = refused("target_training.sizes=[1, 5]")
    assert "5" in sentence
    assert "`target.pool`" in sentence
    assert not (tmp_path / "workspace" / "preprocess").exists()


def test_a_channel_that_is_not_there(refused: Refused, cohort: Path) -> None:
    sentence = refused("datasets.left.channels=[T2]")
    assert "'T2'" in sentence
    assert "T1" in sentence
    assert "`datasets.left.channels`" in sentence


def test_a_training_that_diverges_keeps_the_others(refused: Refused, checked: dict, tmp_path: Path) -> None:
    sentence = refused("source_training.peak_rate=1e30", "source_training.optimiser.gradient_clip=1e30")
    assert "train-source" in sentence
    assert "loss" in sentence
    assert kept(checked, tmp_path)


def test_the_folder_check_says_the_same(cohort: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["check", str(cohort)]) == 0
    assert "9 cases of 9 patients" in capsys.readouterr().out
    (cohort / "labelsTr" / "case_2.nii.gz").write_bytes(b"")
    assert main(["check", str(cohort)]) == 2
    assert "case_2" in capsys.readouterr().out
    assert main(["check", str(cohort), "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)
    assert "case_2" in json.dumps(findings)
    assert main(["check", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'}: there is no such folder" in capsys.readouterr().err


def test_brackets_in_names_are_no_markup(cohort: Path, capsys: pytest.CaptureFixture) -> None:
    root = cohort.parent / "scans[" / "red] [bold]"
    root.parent.mkdir()
    cohort.rename(root)
    (root / "labelsTr" / "case_2.nii.gz").write_bytes(b"")
    assert main(["check", str(root)]) == 2
    assert "scans[/red] [bold]" in capsys.readouterr().out


def test_a_batch_goes_on_without_the_cases_that_are_damaged(
    refused: Refused, checked: dict, cohort: Path, tmp_path: Path
) -> None:
    broken, shifted = used_case(tmp_path, "source"), used_case(tmp_path, "test")
    shutil.rmtree(tmp_path / "workspace")
    image, label = cohort / "imagesTr" / f"{broken}.nii.gz", cohort / "labelsTr" / f"{shifted}.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    moved = read_label(label)
    affine = moved.affine.copy()
    affine[0, 3] += 50
    write_volume(Volume(moved.array.astype(np.uint8), affine), label)
    sentence = refused(command="preprocess")
    assert broken in sentence
    assert shifted in sentence
    done = {key for key in markers(tmp_path / "workspace") if key.startswith("preprocess")}
    expected = {key for key in checked if key.startswith("preprocess")}
    assert expected - done == {key for key in expected if f"/{broken}/" in key or f"/{shifted}/" in key}
    assert len(expected - done) == 2
    page = (tmp_path / "workspace" / "preprocess" / "index.html").read_text(encoding="utf-8")
    assert "2 failed" in page


@pytest.mark.parametrize("name", [".", "..", "../../victim"])
def test_a_case_whose_name_leads_elsewhere(
    refused: Refused, checked: dict, cohort: Path, tmp_path: Path, name: str
) -> None:
    path = cohort / "dataset.json"
    content = json.loads(path.read_text())
    entries = {
        f"case_{i}": {"images": [f"imagesTr/case_{i}.nii.gz"], "label": f"labelsTr/case_{i}.nii.gz"} for i in range(8)
    }
    entries[name] = {"images": ["imagesTr/case_8.nii.gz"], "label": "labelsTr/case_8.nii.gz"}
    labels = {label: int(value) for value, label in content["labels"].items()}
    path.write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": labels, "dataset": entries}))
    (cohort / "patients.csv").unlink()
    before = sorted(tmp_path.rglob("*"))
    for command in ("check", "preprocess", "run"):
        sentence = refused(command=command)
        assert f"the case name {name!r}" in sentence
    assert kept(checked, tmp_path)
    assert [p for p in before if not p.exists()] == []


def test_the_source_is_drawn_beside_listed_target_cases(
    cohort: Path, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    target = {"dataset": "right", "pool_cases": ["case_0", "case_1", "case_2"], "test_cases": ["case_3", "case_4"]}
    config = write_study(tmp_path / "tiny.yaml", cohort)
    override = f"target={json.dumps(target)}"
    workspace = tmp_path / "workspace"
    arguments = [str(config), "--set", override, "--workspace", str(workspace), "--jobs", "1"]
    assert main(["check", *arguments]) == 0
    split = json.loads((workspace / "check" / "study" / "study.json").read_text())["split"]
    assert set(split["pool"]) | set(split["test"]) == {"P0", "P1", "P2", "P3", "P4"}
    assert len(split["source"]) == 3
    assert set(split["source"]) <= {"P5", "P6", "P7", "P8"}


def test_a_dataset_named_like_a_file_of_the_check(
    cohort: Path, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    entry = {"path": str(cohort), "modality": "mr", "foreground": ["left"]}
    config = write_study(tmp_path / "tiny.yaml", cohort, datasets={"study": entry}, source={"dataset": "study"})
    arguments = [str(config), "--workspace", str(tmp_path / "workspace"), "--jobs", "1"]
    assert main(["check", *arguments]) == 0
    assert "split" in json.loads((tmp_path / "workspace" / "check" / "study" / "study.json").read_text())
    assert main(["check", *arguments]) == 0


def test_names_of_cases_and_channels_are_no_markup(cohort: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [f"[red]{i},imagesTr/case_{i}.nii.gz,labelsTr/case_{i}.nii.gz" for i in range(3)]
    table = cohort / "cases.csv"
    table.write_text("\n".join(["case,T1[red],label", *rows, "[red]3,imagesTr/none.nii.gz,"]) + "\n")
    (cohort / "patients.csv").unlink()
    assert main(["check", str(table)]) == 2
    shown = capsys.readouterr().out
    assert "[red]3" in shown
    assert "T1[red]" in shown
