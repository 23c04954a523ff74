"""A study whose annotated patients are cross-validated: everybody is tested once by models that never saw them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.image_file import read_volume
from pipeline.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    return write_study(
        folder / "folds.yaml",
        write_cohort(folder / "cohort"),
        source={"patients": None, "cases": ["case_0", "case_1", "case_2"]},
        target={"pool": None, "test": None, "patients": "all", "folds": 3},
        target_training={"arms": ["random", "swag_calibrated"], "sizes": [2], "reference_sizes": [], "repeats": 2},
    )


@pytest.fixture(scope="module")
def workspace(config: Path) -> Path:
    folder = config.parent / "workspace"
    assert main(["run", str(config), "--workspace", str(folder), "--jobs", "1"]) == 0
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everybody_is_tested_once_in_each_repeat_by_models_that_never_saw_them(workspace: Path) -> None:
    everybody = [f"P{i}" for i in range(3, 9)]
    cases = rows(workspace / "results/cases.csv")
    for arm in ("random", "swag_calibrated"):
        for n in (2, 6):
            for repeat in (0, 1):
                of = [r for r in cases if (r["arm"], r["n"], r["repeat"]) == (arm, str(n), str(repeat))]
                assert [r["patient"] for r in of] == everybody
    for unit in workspace.glob("infer/*/n*/repeat-*/unit.json"):
        record = json.loads(unit.read_text())
        assert len(record["predictions"]) == 3
        tested = []
        for key in record["predictions"]:
            marker = json.loads((workspace / "predict-test" / key / "done.json").read_text())
            trained = {
                patient
                for own in (workspace / "train-target").glob("*/*/*/training.json")
                for patient in json.loads(own.read_text())["patients"]
                if digest_of(own.parent) in marker["recipe"]["trainings"]
            }
            cases_of_fold = {case.removeprefix("case_") for case in marker["recipe"]["images"]}
            assert trained
            assert not {f"P{case}" for case in cases_of_fold} & trained
            tested += cases_of_fold
        assert sorted(tested) == [p.removeprefix("P") for p in everybody]


def test_readings_are_fitted_inside_each_fold_alone(workspace: Path) -> None:
    record = json.loads((workspace / "infer/swag_calibrated/n06/repeat-0/unit.json").read_text())
    temperatures = [reading["logit_temperature"] for reading in record["readings"]]
    # Every fold has its own, and the final model one of all six patients.
    assert len({*temperatures, record["choices"]["logit_temperature"]}) == 4
    assert record["reading_patients"] == 6
    description = json.loads((workspace / "infer/swag_calibrated/n06/repeat-0/model/model.json").read_text())
    assert description["arm"]["logit_temperature"] == record["choices"]["logit_temperature"]
    for key in record["predictions"]:
        tested = set(json.loads((workspace / "predict-test" / key / "done.json").read_text())["recipe"]["images"])
        mine = [own for own in (workspace / "fit-readings/n06/repeat-0").iterdir() if not tested & set(labels_of(own))]
        # That of this fold; the final model's holds all patients, those of other folds these.
        assert len(mine) == 1
    of_two = json.loads((workspace / "infer/swag_calibrated/n02/repeat-0/unit.json").read_text())
    assert (of_two["choices"]["logit_temperature"], of_two["reading_patients"]) == (1.0, 0)


def test_every_annotation_is_compared_with_models_that_never_saw_it(workspace: Path) -> None:
    audit = rows(workspace / "results/label_audit.csv")
    assert sorted(r["patient"] for r in audit) == [f"P{i}" for i in range(3, 9)]
    for row in audit:
        trained = {
            patient
            for key in trainings_of(workspace / "predict-test" / row["prediction"])
            for patient in json.loads((key / "training.json").read_text())["patients"]
        }
        assert trained
        assert row["patient"] not in trained


def trainings_of(prediction: Path) -> list[Path]:
    wanted = json.loads((prediction / "done.json").read_text())["recipe"]["trainings"]
    everything = prediction.parents[3].glob("train-target/*/*/*/training.json")
    return [own.parent for own in everything if digest_of(own.parent) in wanted]


def test_the_final_reading_is_fitted_on_the_folds_of_the_cross_validation(workspace: Path) -> None:
    record = json.loads((workspace / "infer/swag_calibrated/n06/repeat-0/unit.json").read_text())
    assert record["reading_predictions"] == record["predictions"]


def labels_of(folder: Path) -> list[str]:
    return list(json.loads((folder / "done.json").read_text())["recipe"]["labels"])


def digest_of(folder: Path) -> str:
    return json.loads((folder / "done.json").read_text())["digest"]


def test_the_final_model_learns_from_all_and_predicts(workspace: Path, config: Path, tmp_path: Path) -> None:
    models = sorted(str(p.parent.relative_to(workspace / "infer")) for p in workspace.glob("infer/**/model.json"))
    assert models == ["random/n06/repeat-0/model", "swag_calibrated/n06/repeat-0/model"]
    model = workspace / "infer" / models[1]
    description = json.loads((model / "model.json").read_text())
    assert description["training_patients"] == 6
    # Patients tell how far expected and real Dice lie apart out of fold: by models that had not seen them.
    other = json.loads((workspace / "infer" / models[0] / "model.json").read_text())
    assert other["dice_fits"]["right"]["patients"] >= 5
    scan = config.parent / "cohort" / "imagesTr" / "case_0.nii.gz"
    words = ["predict", str(model), str(scan), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--set", "pictures=false"]) == 0
    assert main(["export", str(model), "--output", str(tmp_path / "bundle"), "--set", "onnx=false"]) == 0
    card = next(p for p in (tmp_path / "bundle").rglob("README.md")).read_text()
    assert "By 3-fold cross-validation of 6 annotated patients" in card
    assert np.unique(read_volume(tmp_path / "out/case_0/case_0.nii.gz").array).size <= 2


def test_tables_and_report_say_that_it_is_cross_validation(workspace: Path) -> None:
    evaluated = json.loads((workspace / "results/evaluated.json").read_text())
    assert evaluated["settings"]["folds"] == 3
    assert {unit["model"] is None for unit in evaluated["units"].values()} == {True, False}
    assert all(not row["p_value"] for row in rows(workspace / "results/comparisons.csv"))
    page = (workspace / "report/index.html").read_text()
    assert page.count("3-fold cross-validation") >= 2
    assert "were cross-validated in 3 folds" in page
    assert "others formed the test set" not in page
    assert json.loads((workspace / "results/summary.json").read_text())["folds"] == 3


def test_a_second_run_does_nothing(workspace: Path, config: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {p: p.stat().st_mtime_ns for p in (workspace / "train-target").rglob("*") if p.is_file()}
    assert main(["run", str(config), "--workspace", str(workspace), "--jobs", "1"]) == 0
    assert {p: p.stat().st_mtime_ns for p in (workspace / "train-target").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["target.folds=9"], ["`target.folds` is 9, and 6 annotated patients", "2 to 6 folds"]),
        (["target_training.sizes=[5]"], ["holds 5, but a fold leaves 4 of 6 patients"]),
        (["target.test=2"], ["every annotated patient is tested", "remove `test`"]),
        (["target.folds=null"], ["leaves nobody to test on", "leave_one_out"]),
        (["target.folds=1"], ["greater than or equal to 2"]),
        (["target.patients=null"], ["does not say which patients are cross-validated"]),
    ],
)
def test_what_cannot_be_is_one_sentence(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], words: list[str]
) -> None:
    arguments = ["check", str(config), "--workspace", str(tmp_path / "w"), "--jobs", "1"]
    assert main([*arguments, *(word for change in changes for word in ("--set", change))]) == 2
    error = capsys.readouterr().err
    for word in words:
        assert word in error
    assert error.count("\n") == 1
