"""A label in the place of its image is one in every stage, and one elsewhere is refused in the same words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Case, ImageSource
from data.checks.battery import check_case
from data.checks.finding import Level
from data.errors import DataError
from data.image_file import write_volume
from data.shared_grid import place
from data.volume import SNAP_TOLERANCE, Volume, reorient
from preprocessing.subject import load_subject

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
SHAPE = (6, 7, 8)


def label() -> np.ndarray:
    array = np.zeros(SHAPE, np.int16)
    array[1:4, 2:6, 3:7], array[2, 3, 4] = 1, 2
    return array


def moved(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += mm
    return affine


def case_of(folder: Path, drawn: Volume) -> Case:
    image = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    write_volume(Volume(image, AFFINE), folder / "t1.nii.gz")
    write_volume(drawn, folder / "label.nii.gz")
    return Case("a", "a", {"T1": ImageSource(folder / "t1.nii.gz")}, folder / "label.nii.gz", folder / "label.nii.gz")


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("mm", [0.0, 0.12, 0.2, 0.249])
def test_turned_axes_and_rounding_are_taken_back_and_said(
    tmp_path: Path, orientation: str, mm: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    case = case_of(tmp_path, reorient(Volume(label(), moved(mm)), orientation))
    _, findings = check_case(case, ("T1",), (0, 1, 2))
    said = [finding.found for finding in findings if finding.check in ("label_grid", "mask_grid")]
    assert {finding.level for finding in findings if finding.check != "brain_mask"} <= {Level.INFO}
    assert len(said) == 2 * ((orientation != "RAS") + (mm > 0))
    subject = load_subject(case)
    assert subject.label is not None
    assert subject.mask is not None
    np.testing.assert_array_equal(subject.label.array, label())
    np.testing.assert_array_equal(subject.mask.array, label() > 0)
    np.testing.assert_array_equal(subject.label.affine, subject.reference.affine)
    # The log says what the findings say.
    for sentence in said:
        assert sentence.partition(": ")[2] in caplog.text


@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_what_lies_elsewhere_is_refused_by_both_in_one_sentence(tmp_path: Path, orientation: str) -> None:
    for drawn in (Volume(label(), moved(0.26)), Volume(label()[1:], AFFINE), Volume(label(), moved(50))):
        case = case_of(tmp_path, reorient(drawn, orientation))
        _, findings = check_case(case, ("T1",), (0, 1, 2))
        errors = [finding for finding in findings if finding.level is Level.ERROR]
        assert {finding.check for finding in errors} == {"label_grid", "mask_grid"}
        with pytest.raises(DataError) as refused:
            load_subject(case)
        assert errors[0].found.partition(": ")[2] in str(refused.value)


@pytest.mark.parametrize("degrees", [44.9999, 45.0, 45.0001, 90.0])
def test_grids_askew_are_not_told_apart_by_rounding(degrees: float) -> None:
    def volume(angle: float) -> Volume:
        affine = np.eye(4)
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        affine[:2, :2] = [[c, -s], [s, c]]
        return Volume(label(), affine)

    placement = place(volume(degrees + 1e-3), {"T1": volume(degrees - 1e-3)}, "label")
    np.testing.assert_array_equal(placement.volume.array, label())


def test_the_tolerance_holds_both_ways() -> None:
    fine, coarse = Volume(label(), AFFINE), Volume(label(), AFFINE * [[1.002], [1], [1], [1]])
    coarse.affine[0, 3] = SNAP_TOLERANCE * 0.9
    assert place(fine, {"a": coarse}, "x").channel == place(coarse, {"a": fine}, "x").channel == "a"
