"""`graft.preprocess` is the chain of a study, for one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graft
from data.errors import ConfigError, DataError
from data.image_file import write_volume
from data.modality import Modality
from data.volume import Volume
from preprocessing.chain import Chain, default_options
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import Subject

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def scan() -> Volume:
    array = np.random.default_rng(0).normal(100, 10, (12, 14, 10)).astype(np.float32)
    array[3:8, 4:9, 3:7] += 100
    return Volume(array, AFFINE)


def test_the_chain_is_that_of_a_study(scan: Volume, tmp_path: Path) -> None:
    options = default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=(3, 3, 3))})
    expected, records = Chain(options).apply(Subject("a", {"image": scan}))
    write_volume(scan, tmp_path / "a.nii.gz")
    for image in (scan, scan.to_nibabel(), tmp_path / "a.nii.gz"):
        done = graft.preprocess(image, "mr", {"resampling": {"spacing": [3, 3, 3]}})
        np.testing.assert_array_equal(done.channels["image"].array, expected.reference.array)
        np.testing.assert_allclose(done.channels["image"].affine, expected.reference.affine)
        assert [record["step"] for record in done.records] == [record["step"] for record in records]


def test_a_label_goes_along_and_a_mask_comes_back(scan: Volume) -> None:
    label = scan.with_array((scan.array > 150).astype(np.uint8) * 2)
    done = graft.preprocess({"T1": scan, "T2": scan}, "mr", {"resampling": None}, label=label)
    assert list(done.channels) == ["T1", "T2"]
    back = done.to_scan(done.label)
    np.testing.assert_array_equal(back.array, label.array)
    np.testing.assert_allclose(back.affine, scan.affine)
    smooth = done.to_scan(done.channels["T1"], label=False)
    assert np.corrcoef(smooth.array.ravel(), scan.array.ravel())[0, 1] > 0.99


def test_a_brain_mask_is_taken(scan: Volume) -> None:
    mask = scan.with_array(scan.array > 150)
    done = graft.preprocess(scan, "mr", {"resampling": None}, brain_mask=mask)
    assert done.mask is not None
    np.testing.assert_array_equal(done.to_scan(done.mask).array > 0, mask.array)


def test_what_is_wrong_is_one_sentence(scan: Volume) -> None:
    with pytest.raises(ConfigError, match="modality 'pet' is unknown; expected one of mr_head"):
        graft.preprocess(scan, "pet")
    with pytest.raises(ConfigError, match=r"preprocessing: .*resample"):
        graft.preprocess(scan, "mr", {"resample": {}})
    with pytest.raises(DataError, match="label: on a different grid"):
        graft.preprocess(scan, "mr", label=Volume(np.zeros((3, 3, 3)), np.eye(4)))
    with pytest.raises(DataError, match="label: has label values that are not whole numbers"):
        graft.preprocess(scan, "mr", label=scan.with_array(scan.array / 3))
