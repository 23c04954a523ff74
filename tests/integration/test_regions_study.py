"""A study of overlapping structures, partly annotated, through all stages, `predict` and `export`."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import graft
from data.image_file import read_label, write_volume
from models.heads import Heads
from pipeline.cli import main

pytestmark = pytest.mark.slow

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "left": [1, 3]}
IGNORED = 255


@dataclass(frozen=True)
class RegionsStudy:
    """A finished study and its raw scans."""

    config: Path
    cohort: Path
    workspace: Path

    def arm(self, name: str) -> Path:
        return self.workspace / "infer" / name / "n02" / "repeat-0"


def partly_annotated(cohort: Path) -> None:
    """Gives the upper part of the left structure a value of its own, and leaves the back of every scan out."""
    for path in sorted((cohort / "labelsTr").iterdir()):
        label = read_label(path)
        drawn = label.array.astype(np.uint8)
        drawn[:, :, 9:][drawn[:, :, 9:] == 1] = 3
        drawn[:, :6] = IGNORED
        write_volume(label.with_array(drawn), path)
    about = json.loads((cohort / "dataset.json").read_text())
    about["labels"]["3"] = "upper"
    (cohort / "dataset.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def study(write_cohort: Callable, write_study: Callable, tmp_path_factory: pytest.TempPathFactory) -> RegionsStudy:
    folder = tmp_path_factory.mktemp("regions")
    cohort = write_cohort(folder / "cohort")
    partly_annotated(cohort)
    target = {"path": str(cohort), "modality": "mr", "ignore": IGNORED}
    config = write_study(
        folder / "tiny.yaml",
        cohort,
        datasets={"left": target | {"foreground": ["left", "upper"]}, "right": target | {"foreground": REGIONS}},
        target_training={
            "arms": {"random": None, "fine_tune": None, "dwp": {"voxel_correlation": 0.2}, "ensemble": None},
            "reference_sizes": [],
            "sizes": [2],
        },
    )
    assert main(["run", str(config), "--workspace", str(folder / "workspace"), "--jobs", "1"]) == 0
    return RegionsStudy(config, cohort, folder / "workspace")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def reference(study: RegionsStudy, case: str) -> np.ndarray:
    return np.asarray(nib.load(study.cohort / "labelsTr" / f"{case}.nii.gz").dataobj)


def test_the_tables_measure_the_masks_that_predict_writes_where_somebody_annotated(
    study: RegionsStudy, tmp_path: Path
) -> None:
    measured = [row for row in rows(study.workspace / "results/cases.csv") if row["arm"] == "ensemble"]
    assert {row["label"] for row in measured} == set(REGIONS)
    scans = [str(study.cohort / "imagesTr" / f"{case}.nii.gz") for case in {row["case"] for row in measured}]
    assert main(["predict", str(study.arm("ensemble")), *scans, "--output", str(tmp_path / "out")]) == 0
    for row in measured:
        label = reference(study, row["case"])
        files = tmp_path / "out" / row["case"]
        mask = np.asarray(nib.load(files / f"{row['case']}_mask-{row['label']}.nii.gz").dataobj)
        inside, annotated = np.isin(label, REGIONS[row["label"]]), label != IGNORED
        assert int(row["tp"]) == np.count_nonzero((mask == 1) & inside)
        assert int(row["fp"]) == np.count_nonzero((mask == 1) & ~inside & annotated)
        assert int(row["fn"]) == np.count_nonzero((mask == 0) & inside)
        # The label map has the sum of all structures that hold a voxel.
        both = np.asarray(nib.load(files / f"{row['case']}.nii.gz").dataobj)
        value = json.loads((files / f"{row['case']}.json").read_text())["structures"][row["label"]]["label"]
        np.testing.assert_array_equal(both & value > 0, mask == 1)
        assert mask[~annotated].any() or row["label"] != "whole"


def test_structures_overlap_in_python_too(study: RegionsStudy) -> None:
    model = graft.load_model(study.arm("fine_tune"))
    found = model.predict(study.cohort / "imagesTr/case_1.nii.gz")
    assert found.heads is Heads.OVERLAPPING
    assert sorted(model.classes.values()) == [1, 2, 4]
    assert sum(map(int, (mask.array.sum() for mask in found.masks.values()))) > np.count_nonzero(found.mask.array)
    for name, mask in found.masks.items():
        np.testing.assert_array_equal(mask.array, found.probabilities[name].array > 0.5)


def test_a_bundle_gives_the_same_masks(study: RegionsStudy, tmp_path: Path) -> None:
    scans, bundle = study.cohort / "imagesTr", tmp_path / "bundle"
    assert main(["export", str(study.arm("ensemble")), "--output", str(bundle), "--set", "onnx=false"]) == 0
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--bundle_root", ".", "--dataset_dir", str(scans), "--output_dir", str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert main(["predict", str(study.arm("ensemble")), str(scans), "--output", str(tmp_path / "graft")]) == 0
    masks = sorted((tmp_path / "out").iterdir())
    assert len(masks) == len(list(scans.iterdir()))
    for mask in masks:
        case = mask.name.removesuffix("_mask.nii.gz")
        mine = nib.load(tmp_path / "graft" / case / f"{case}.nii.gz")
        np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj), np.asarray(mine.dataobj))
    about = json.loads((bundle / "configs/metadata.json").read_text())
    assert about["network_data_format"]["outputs"]["pred"]["num_channels"] == len(REGIONS)
    assert "sum of all that hold it" in about["label_classes"]


def test_the_head_of_a_source_with_exclusive_classes_starts_anew(study: RegionsStudy) -> None:
    record = json.loads((study.arm("fine_tune") / "unit.json").read_text())
    assert record["started_anew"]
    assert all(name.startswith("head.") for name in record["started_anew"])


def test_the_checks_tell_how_much_is_not_annotated(study: RegionsStudy) -> None:
    findings = json.loads((study.workspace / "check/study/findings.json").read_text())["findings"]
    found = [own for own in findings if own["check"] == "annotation"]
    assert {own["level"] for own in found} == {"info"}
    assert all(own["found"] == "label: 30 % of the voxels are not annotated and will be ignored" for own in found)


def test_intervals_are_judged_on_annotated_voxels_alone(study: RegionsStudy) -> None:
    table = [row for row in rows(study.workspace / "results/calibration.csv") if row["n"] == "2"]
    # Draws store the volume of the whole mask, so theirs cannot be compared.
    assert all(not row["covered"] for row in table if row["arm"] == "ensemble")
    assert all(row["covered"] for row in table if row["arm"] == "dwp")


def test_the_report_shows_what_is_not_annotated(study: RegionsStudy) -> None:
    page = (study.workspace / "report/index.html").read_text()
    assert "hatched: not annotated" in page
    [case] = (study.workspace / "report/cases").glob("*.html")
    text = case.read_text()
    assert "not annotated" in text
    assert "core and left and whole" in text
