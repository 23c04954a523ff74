"""Checks that look at all cases: duplicates, spacing, completeness, patients, splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from data.checks.battery import check_dataset
from data.checks.duplicates import similar_pairs
from data.checks.finding import Finding, Level
from data.checks.summary import intensity_step
from data.dataset import Dataset
from data.image_file import read_volume, write_volume
from data.layouts.detection import read_dataset
from data.modality import Modality
from data.volume import Volume, reorient

Write = Callable[..., Path]


def findings_of(dataset: Dataset, **options: object) -> list[Finding]:
    return list(check_dataset(dataset, **options).findings)


def test_an_image_under_two_names_is_found_by_its_content(msd_folder: Write) -> None:
    root = msd_folder()
    images = root / "imagesTr"
    copy = reorient(read_volume(images / "case_0.nii.gz"), "SPL")
    write_volume(copy, images / "case_3.nii.gz")
    write_volume(reorient(read_volume(root / "labelsTr" / "case_0.nii.gz"), "SPL"), root / "labelsTr" / "case_3.nii.gz")
    (finding,) = findings_of(read_dataset(root))
    assert (finding.level, finding.case, finding.check) == (Level.ERROR, "case_3", "duplicate_image")
    assert "same voxels as T1 of case 'case_0' of patient 'P0'" in finding.found
    (root / "patients.csv").write_text("case,patient\ncase_0,A\ncase_1,B\ncase_2,C\ncase_3,A\n")
    (finding,) = findings_of(read_dataset(root))
    assert finding.level is Level.WARNING


def test_the_same_voxels_in_two_channels_are_found(tmp_path: Path, msd_folder: Write) -> None:
    root = msd_folder(cases=2, patients=False)
    shutil.copy(root / "imagesTr" / "case_0.nii.gz", root / "imagesTr" / "other.nii.gz")
    lines = ["case,T1,T2", "a,imagesTr/case_0.nii.gz,imagesTr/other.nii.gz"]
    (root / "manifest.csv").write_text("\n".join(lines))
    found = findings_of(read_dataset(root / "manifest.csv"))
    assert [(f.level, f.case) for f in found if f.check == "duplicate_channel"] == [(Level.ERROR, "a")]


def test_an_unusual_spacing_stands_out(msd_folder: Write) -> None:
    root = msd_folder(cases=6)
    for folder in ("imagesTr", "labelsTr"):
        volume = read_volume(root / folder / "case_2.nii.gz")
        write_volume(Volume(volume.array, volume.affine @ np.diag([1, 1, 2.5, 1])), root / folder / "case_2.nii.gz")
    (finding,) = findings_of(read_dataset(root))
    assert (finding.level, finding.case, finding.check) == (Level.WARNING, "case_2", "spacing")
    assert "1 × 1.5 × 5 mm" in finding.found
    assert "1 × 1.5 × 2 mm" in finding.found


def test_a_cohort_of_mixed_spacings_has_no_outliers(msd_folder: Write) -> None:
    root = msd_folder(cases=8)
    for number in range(8):
        for folder in ("imagesTr", "labelsTr"):
            path = root / folder / f"case_{number}.nii.gz"
            volume = read_volume(path)
            write_volume(Volume(volume.array, volume.affine @ np.diag([1, 1, 1 + 0.4 * number, 1])), path)
    assert findings_of(read_dataset(root)) == []


def test_missing_channels_are_warnings_until_they_are_asked_for(msd_folder: Write) -> None:
    root = msd_folder(patients=False)
    lines = ["case,T1,T2,label,patient"]
    images = [f"imagesTr/case_{i}.nii.gz" for i in range(4)]
    lines += [f"a,{images[0]},{images[1]},labelsTr/case_0.nii.gz,A", f"b,{images[2]},,,B"]
    (root / "manifest.csv").write_text("\n".join(lines))
    dataset = read_dataset(root / "manifest.csv")
    report = check_dataset(dataset)
    assert {(f.level, f.case, f.check) for f in report.findings} == {
        (Level.WARNING, "b", "missing_channel"),
        (Level.WARNING, None, "missing_label"),
        (Level.INFO, None, "label_names"),
    }
    assert report.table["b"] == {"T1": "present", "T2": "absent", "label": "absent", "brain_mask": "absent"}
    assert "1 of 2 cases have no label: b" in {f.found for f in report.findings}
    levels = {f.check: f.level for f in findings_of(dataset, channels=["T1", "T2"])}
    assert levels["missing_channel"] is Level.ERROR
    assert "missing_channel" not in {f.check for f in findings_of(dataset, channels=["T1"])}


def test_names_that_the_dataset_lacks_are_errors(msd_folder: Write) -> None:
    dataset = read_dataset(msd_folder())
    found = findings_of(dataset, channels=["T1", "T9"], foreground=[1, 7, 0])
    errors = {f.found for f in found if f.level is Level.ERROR}
    assert "there is no channel 'T9'; the dataset has T1" in errors
    assert "the foreground value 7 is not declared; the dataset has 1 (anterior), 2 (posterior)" in errors
    assert any("value 0" in text for text in errors)


def test_it_is_said_that_each_case_counts_as_a_patient(msd_folder: Write) -> None:
    (finding,) = findings_of(read_dataset(msd_folder(patients=False)))
    assert (finding.level, finding.case, finding.check) == (Level.INFO, None, "patients")
    assert "each of the 4 cases counts as one patient" in finding.found


def test_a_patient_on_both_sides_of_a_split_is_an_error(msd_folder: Write) -> None:
    root = msd_folder()
    (root / "patients.csv").write_text("case,patient\ncase_0,A\ncase_1,B\ncase_2,C\ncase_3,A\n")
    dataset = read_dataset(root)
    assert findings_of(dataset, splits={"train": ["case_0", "case_3"], "test": ["case_1"]}) == []
    found = findings_of(dataset, splits={"train": ["case_0", "case_1"], "test": ["case_3", "nobody"]})
    errors = {f.case: f for f in found}
    assert set(errors) == {"case_3", "nobody"}
    assert all(f.level is Level.ERROR for f in found)
    for word in ("'A'", "'case_0'", "'train'", "'case_3'", "'test'"):
        assert word in errors["case_3"].found


def heads(root: Path, count: int) -> None:
    """Heads that share a shape and differ inside; the last is a shifted, noisier rescan of the first."""
    shape = (40, 44, 36)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = gaussian_filter((x**2 / 0.5 + y**2 / 0.7 + z**2 / 0.6 < 1).astype(float), 1)
    for number in range(count):
        generator = np.random.default_rng(number if number < count - 1 else 0)
        texture = gaussian_filter(generator.normal(size=shape), 2)
        array = 500 * inside * (1 + 0.3 * texture / texture.std())
        if number == count - 1:
            array = shift(array, (1.3, -0.7, 0.4), order=1)
        array = array + np.random.default_rng(100 + number).normal(0, 8, shape)
        for folder, values in (("imagesTr", array.astype(np.float32)), ("labelsTr", (array > 500).astype(np.uint8))):
            write_volume(Volume(values, np.diag([4.0, 4, 4, 1])), root / folder / f"case_{number}.nii.gz")


@pytest.mark.slow
def test_a_rescan_is_hinted_at_unless_it_is_grouped(msd_folder: Write) -> None:
    root = msd_folder(cases=8)
    heads(root, 8)
    (finding,) = findings_of(read_dataset(root))
    assert (finding.level, finding.check) == (Level.INFO, "near_duplicate")
    assert "case_0 and case_7 may be scans of one patient: they look alike" in finding.found
    (finding,) = findings_of(read_dataset(root), splits={"train": ["case_0", "case_1"], "test": ["case_7"]})
    assert finding.level is Level.WARNING
    assert finding.found.endswith("one is in 'train', the other in 'test'")
    lines = [f"case_{i},P{i % 7}" for i in range(8)]
    (root / "patients.csv").write_text("\n".join(["case,patient", *lines]))
    assert findings_of(read_dataset(root)) == []


def test_families_of_alike_cases_are_paired_and_a_uniform_cohort_is_not() -> None:
    similarity = np.full((6, 6), 0.6)
    np.fill_diagonal(similarity, 1)
    assert similar_pairs(similarity) == []
    for i, j in [(0, 1), (0, 2), (1, 2), (4, 5)]:
        similarity[i, j] = similarity[j, i] = 0.95
    assert similar_pairs(similarity) == [(0, 1), (0, 2), (1, 2), (4, 5)]
    assert similar_pairs(np.eye(1)) == []
    assert similar_pairs(np.array([[1, 0.99], [0.99, 1]])) == []


def test_two_crops_of_one_scan_share_their_steps(msd_folder: Write) -> None:
    root = msd_folder(cases=6)
    for number, step in enumerate([3.17, 3.17, 2.93, 7.0, 5.21, 4.4]):
        path = root / "imagesTr" / f"case_{number}.nii.gz"
        volume = read_volume(path)
        write_volume(volume.with_array((volume.array * step).astype(np.float32)), path)
    (finding,) = findings_of(read_dataset(root))
    assert (finding.level, finding.case, finding.check) == (Level.INFO, "case_0", "near_duplicate")
    assert "case_0 and case_1 may be scans of one patient: they have grey values in steps of 3.17," in finding.found


@pytest.mark.parametrize("step", [0.731, 5.95897, 131.0625])
def test_the_step_between_grey_values_is_measured(step: float) -> None:
    counts = np.random.default_rng(0).integers(0, 3000, 20_000)
    values = (counts * step).astype(np.float32)
    assert intensity_step(values) == pytest.approx(step, rel=1e-7)


def test_whole_numbers_fractions_and_continuous_values_have_no_step_of_their_own() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 3000, 20_000)
    for array in (counts, counts / 2, counts * 3, generator.normal(size=20_000), np.zeros(100), counts[:10]):
        assert intensity_step(array.astype(np.float32)) is None


def test_scans_that_stand_beside_change_nothing_that_is_found_about_the_others(msd_folder: Write) -> None:
    root = msd_folder(cases=9)
    dataset = read_dataset(root)
    for number in range(4, 9):
        path = root / "imagesTr" / f"case_{number}.nii.gz"
        volume = read_volume(path)
        # Most scans are coarse, so the others would be the odd ones.
        write_volume(Volume(volume.array, volume.affine @ np.diag([1, 1, 2.5, 1])), path)
    cases = tuple(replace(case, label=None) for case in dataset.cases[4:])
    beside = {case.name for case in cases}
    alone = findings_of(replace(dataset, cases=dataset.cases[:4]), modality=Modality.MR)
    splits = {"pool": ["case_0", "case_1"], "unlabelled": sorted(beside)}
    together = findings_of(
        replace(dataset, cases=(*dataset.cases[:4], *cases)), modality=Modality.MR, beside=beside, splits=splits
    )
    assert [finding for finding in together if finding.case not in beside] == alone
    odd = {finding.case: finding for finding in together if finding.case in beside}
    assert set(odd) == beside
    assert {(own.level, own.check) for own in odd.values()} == {(Level.ERROR, "spacing")}
