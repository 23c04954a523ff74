from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Case, ImageSource
from data.errors import DataError
from data.image_file import write_volume
from data.volume import Volume
from preprocessing.subject import load_subject

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def _write(path: Path, array, affine=AFFINE) -> Path:
    write_volume(Volume(np.asarray(array), affine), path)
    return path


@pytest.fixture
def image(tmp_path):
    return _write(tmp_path / "t1.nii.gz", np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32))


def _case(image, label=None, mask=None, **channels):
    sources = {"T1": ImageSource(image)} | {name: ImageSource(path) for name, path in channels.items()}
    return Case("case_7", "p", sources, label, mask)


def test_channels_come_in_the_order_asked_for(image, tmp_path):
    other = _write(tmp_path / "t2.nii.gz", np.arange(27, dtype=np.float32).reshape(3, 3, 3))
    subject = load_subject(_case(image, T2=other), ["T2", "T1"])
    assert list(subject.channels) == ["T2", "T1"]
    assert subject.reference.shape == (3, 3, 3)


def test_a_missing_channel_is_named(image):
    with pytest.raises(DataError, match="case_7 has no channel FLAIR"):
        load_subject(_case(image), ["FLAIR"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path, value):
    array = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    array[0, 0, :2] = value
    with pytest.raises(DataError, match=r"case_7.*bad\.nii\.gz holds 2 voxels"):
        load_subject(_case(_write(tmp_path / "bad.nii.gz", array)))


def test_a_constant_image_is_refused(tmp_path):
    with pytest.raises(DataError, match="is constant"):
        load_subject(_case(_write(tmp_path / "flat.nii.gz", np.full((4, 4, 4), 3, np.float32))))


def test_a_label_that_is_off_by_rounding_is_snapped_and_said_so(image, tmp_path, caplog):
    caplog.set_level("INFO")
    off = AFFINE.copy()
    off[0, 3] += 0.05
    label = _write(tmp_path / "seg.nii.gz", np.ones((5, 6, 7), np.uint8), off)
    subject = load_subject(_case(image, label))
    np.testing.assert_array_equal(subject.label.affine, subject.reference.affine)
    assert "0.05 mm from that of T1, which counts as rounding" in caplog.text


def test_a_label_elsewhere_is_refused_with_both_files_and_the_millimetres(image, tmp_path):
    off = AFFINE.copy()
    off[1, 3] += 4
    label = _write(tmp_path / "seg.nii.gz", np.ones((5, 6, 7), np.uint8), off)
    with pytest.raises(DataError, match=r"seg\.nii\.gz: on a different grid from T1: a corner lies 4 mm from"):
        load_subject(_case(image, label))


def test_a_label_of_another_shape_is_refused(image, tmp_path):
    label = _write(tmp_path / "seg.nii.gz", np.ones((5, 6, 8), np.uint8))
    with pytest.raises(DataError, match=r"seg\.nii\.gz: on a different grid from T1: it has 5×6×8 voxels, T1 5×6×7"):
        load_subject(_case(image, label))


def test_a_label_on_the_second_channels_grid_stays_there(image, tmp_path):
    other = _write(tmp_path / "t2.nii.gz", np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4))
    label = _write(tmp_path / "seg.nii.gz", np.ones((3, 3, 3), np.uint8), np.eye(4))
    subject = load_subject(_case(image, label, T2=other))
    assert subject.label.same_grid(subject.channels["T2"])


def test_a_ready_made_mask_becomes_zeros_and_ones(image, tmp_path):
    mask = _write(tmp_path / "mask.nii.gz", np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8))
    subject = load_subject(_case(image, mask=mask))
    assert subject.mask.array.dtype == np.uint8
    assert set(np.unique(subject.mask.array)) == {0, 1}
