"""Layouts and checks on the real scans: no false alarm on sound sets, and the known pairs are found."""

from __future__ import annotations

import csv
import dataclasses
from itertools import combinations
from pathlib import Path

import pytest

from data.checks.battery import check_dataset
from data.checks.finding import Level
from data.layouts.detection import read_dataset
from data.splits import draw_split

pytestmark = pytest.mark.real_data


def linked_without_patients(folder: Path, copy: Path) -> Path:
    copy.mkdir()
    for file in folder.iterdir():
        if file.name != "patients.csv":
            (copy / file.name).symlink_to(file)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cases", "patients"),
    [("Task04_Hippocampus", 200, 130), ("OASIS_Subcortex_2mm", 26, 21), ("ACDC_cardiac", 60, 60)],
)
def test_sound_sets_have_no_findings(real_data: Path, name: str, cases: int, patients: int) -> None:
    dataset = read_dataset(real_data / name)
    assert (len(dataset.cases), len(dataset.by_patient())) == (cases, patients)
    few = dataclasses.replace(dataset, cases=dataset.cases[:40])  # All are checked, ungrouped, by the next test.
    assert check_dataset(few).findings == ()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("Task04_Hippocampus", 0.65), ("OASIS_Subcortex_2mm", 1.0)])
def test_ungrouped_pairs_are_hinted_at(real_data: Path, tmp_path: Path, name: str, share: float) -> None:
    grouped = read_dataset(real_data / name).by_patient().values()
    true = {frozenset(c.name for c in pair) for cases in grouped for pair in combinations(cases, 2)}
    report = check_dataset(read_dataset(linked_without_patients(real_data / name, tmp_path / name)))
    assert {(f.level, f.check) for f in report.findings} == {
        (Level.INFO, "patients"),
        (Level.INFO, "near_duplicate"),
    }
    hints = [f.found.split(" may be")[0] for f in report.findings if f.check == "near_duplicate"]
    found = {frozenset(hint.split(" and ")) for hint in hints}
    assert found <= true
    assert len(found) >= share * len(true)


def test_one_volume_in_eight_orientations_is_one_image(real_data: Path, tmp_path: Path) -> None:
    files = sorted((real_data / "orientations").glob("*.nii.gz"))
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["case", "MR"], *([file.name[:3], file] for file in files)])
    report = check_dataset(read_dataset(tmp_path))
    assert sum(f.check == "duplicate_image" for f in report.findings) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "channels", "label"),
    [
        ("MS_openms_MNI_2mm/patient07", ("FLAIR", "T1", "T2"), "lesions"),
        ("BRATS2015_deepmedic_2mm", ("FLAIR", "T1c"), "seg"),
        ("RAW_TCGA-FG-6692", ("t1c", "t1", "t2", "fla"), None),
    ],
)
def test_real_heads_raise_no_false_alarm(
    real_data: Path, tmp_path: Path, folder: str, channels: tuple[str, ...], label: str | None
) -> None:
    root = real_data / folder
    first = next(root.rglob(f"{channels[0]}.nii.gz")).parent
    cells = [first / f"{channel}.nii.gz" for channel in channels]
    row = ["a", *cells, first / f"{label}.nii.gz" if label else ""]
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["case", *channels, "label"], row])
    report = check_dataset(read_dataset(tmp_path))
    expected = set() if label else {"missing_label"}
    assert {f.check for f in report.findings if f.level is not Level.INFO} == expected


def test_the_hippocampus_study_can_be_drawn(real_data: Path) -> None:
    dataset = read_dataset(real_data / "Task04_Hippocampus")
    split = draw_split(dataset, dataset, source_choice=50, pool=50, test=30, seed=0)
    assert len({*split.source, *split.pool, *split.test}) == 130
