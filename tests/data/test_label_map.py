"""What values of labels and brain masks mean, in files as other programs write them, and in every stage alike."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import Case, ImageSource
from data.checks.battery import check_case
from data.checks.finding import Level
from data.errors import DataError
from data.image_file import read_brain_mask, read_label, write_volume
from data.label_map import above_half, as_brain_mask, as_label_map
from data.volume import Volume
from preprocessing.subject import load_subject

SHAPE = (6, 7, 8)
INSIDE = np.zeros(SHAPE, bool)
INSIDE[2:4, 2:5, 2:6] = True


def stored(path: Path, array: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> Path:
    """Writes integers with a scale factor, as SPM does."""
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"], header["xyzt_units"] = 352, b"n+1", 2
    header["scl_slope"], header["scl_inter"] = slope, intercept
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + array.tobytes(order="F")))
    return path


SCALED = {
    "uint8, 1/255": (np.uint8, 255, 0, 1 / 255, 0.0),
    "int8 with an intercept": (np.int8, 127, -128, 0.003921568859368563, 0.501960813999176),
    "int16, 1/32767": (np.int16, 32767, 0, 1 / 32767, 0.0),
    "uint16, 1/65535": (np.uint16, 65535, 0, 1 / 65535, 0.0),
    "float32, rounded": (np.float32, 0.9993, -0.0004, 1.0, 0.0),
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    write_volume(Volume(array, np.eye(4)), tmp_path / "t1.nii.gz")
    return tmp_path / "t1.nii.gz"


def outcome(case: Case) -> tuple[list[str], str]:
    """The errors that the checks find, and what preprocessing says when it reads the case."""
    _, findings = check_case(case, tuple(case.channels), (0, 1))
    errors = [finding.found for finding in findings if finding.level is Level.ERROR]
    try:
        load_subject(case)
    except DataError as error:
        return errors, str(error)
    return errors, ""


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_masks_are_whole_numbers_for_checks_and_preprocessing(tmp_path: Path, image: Path, kind: str) -> None:
    dtype, high, low, slope, intercept = SCALED[kind]
    path = stored(tmp_path / "mask.nii.gz", np.where(INSIDE, high, low).astype(dtype), slope, intercept)
    for label in (read_label(path), read_brain_mask(path)):
        np.testing.assert_array_equal(label.array, INSIDE)
    case = Case("a", "a", {"T1": ImageSource(image)}, label=path, brain_mask=path)
    assert outcome(case) == ([], "")
    subject = load_subject(case)
    assert subject.label is not None
    assert subject.label.array.dtype == np.int16
    np.testing.assert_array_equal(subject.label.array, INSIDE)


@pytest.mark.parametrize("largest", range(1, 9))
def test_labels_that_spm_stored_in_a_byte_are_whole_numbers_everywhere(
    tmp_path: Path, image: Path, largest: int
) -> None:
    """SPM stores values up to k as steps of k/255: of two classes, 1 comes back as 1.0039."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[INSIDE] = np.arange(np.count_nonzero(INSIDE)) % largest + 1
    bytes_ = np.rint(labels / (largest / 255)).astype(np.uint8)
    path = stored(tmp_path / "label.nii.gz", bytes_, largest / 255)
    np.testing.assert_array_equal(read_label(path).array, labels)
    case = Case("a", "a", {"T1": ImageSource(image)}, label=path)
    _, findings = check_case(case, ("T1",), tuple(range(largest + 1)))
    assert [finding.found for finding in findings if finding.level is Level.ERROR] == []
    subject = load_subject(case)
    assert subject.label is not None
    np.testing.assert_array_equal(subject.label.array, labels)


@pytest.mark.parametrize("slope", [1 / 255, 2 / 255, 8 / 255, 1 / 20])
def test_a_soft_mask_in_a_byte_is_no_label(tmp_path: Path, image: Path, slope: float) -> None:
    soft = np.where(INSIDE, round(1 / slope), 0).astype(np.uint8)
    soft[0, 0, :4] = np.rint(np.array([0.2, 0.4, 0.6, 0.8]) / slope)
    path = stored(tmp_path / "label.nii.gz", soft, slope)
    errors, refused = outcome(Case("a", "a", {"T1": ImageSource(image)}, label=path))
    assert "not whole numbers" in errors[0]
    assert "not whole numbers" in refused


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.9975, "not whole numbers: 0.9975"),
        (1.0039, "not whole numbers: 1.0039"),
        (0.5, "not whole numbers: 0.5"),
        (np.nan, "1 of 336 voxels are NaN or infinite"),
        (np.inf, "1 of 336 voxels are NaN or infinite"),
        (-1.0, "label values from -1 to 1"),
        (32768.0, "label values from 0 to 32768"),
        (1e30, "label values from 0 to 1e\\+30"),
        (7.0, "not declared: 7"),
    ],
)
def test_what_is_no_label_is_refused_in_the_same_words(tmp_path: Path, image: Path, value: float, message: str) -> None:
    array = INSIDE.astype(np.float32)
    array[0, 0, 0] = value
    write_volume(Volume(array, np.eye(4)), tmp_path / "label.nii.gz")
    case = Case("a", "a", {"T1": ImageSource(image)}, label=tmp_path / "label.nii.gz")
    errors, refused = outcome(case)
    assert len(errors) == 1
    assert np.all([part in errors[0] for part in [message.replace("\\", "")]])
    if value != 7:  # An undeclared value is one of the dataset, which preprocessing asks the checks about.
        assert message.replace("\\", "") in refused


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_the_largest_integers_are_refused(dtype: type) -> None:
    limits = np.iinfo(dtype)
    with pytest.raises(DataError, match="has label values from"):
        as_label_map(Volume(np.array([[[limits.min, limits.max]]], dtype), np.eye(4)), "label")


def test_soft_masks_are_cut_at_one_half_and_all_of_whole_numbers_but_zero_is_brain() -> None:
    soft = np.where(INSIDE, 0.97, 0.0).astype(np.float32)
    soft[0, 0, 0], soft[0, 0, 1] = 0.5, 0.500001
    expected = INSIDE.copy()
    expected[0, 0, 1] = True
    np.testing.assert_array_equal(as_brain_mask(Volume(soft, np.eye(4)), "mask").array, expected)
    for high, dtype in ((255, np.uint8), (32767, np.int16), (3, np.int64)):
        array = np.where(INSIDE, high, 0).astype(dtype)
        array[0, 0, 0] = 1
        expected = INSIDE.copy()
        expected[0, 0, 0] = True
        np.testing.assert_array_equal(above_half(Volume(array, np.eye(4))), expected)


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        (0.4, 0.0, "its values run from 0 to 0.4, so no voxels are brain"),
        (0.0, 0.0, "every voxel is 0, so no voxels are brain"),
        (1.0, 1.0, "every voxel is 1, so all voxels are brain"),
        (np.nan, 0.0, "24 of 336 voxels are NaN"),
    ],
)
def test_a_mask_that_tells_nothing_apart_is_refused_everywhere(
    tmp_path: Path, image: Path, inside: float, outside: float, message: str
) -> None:
    write_volume(Volume(np.where(INSIDE, inside, outside).astype(np.float32), np.eye(4)), tmp_path / "mask.nii.gz")
    case = Case("a", "a", {"T1": ImageSource(image)}, brain_mask=tmp_path / "mask.nii.gz")
    errors, refused = outcome(case)
    assert len(errors) == 1
    assert message in errors[0]
    assert message in refused
