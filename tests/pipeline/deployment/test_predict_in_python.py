"""`graft.load_model(path).predict(image)` says what `graft predict` says, whatever the image is handed in as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import graft
from data.errors import ConfigError, DataError, ModelError
from data.image_file import read_volume, write_frames, write_volume
from data.volume import Volume
from pipeline.arms.choices import ArmOptions
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions

MakeModel = Callable[..., Path]
MakeScan = Callable[..., Volume]


def pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "nibabel": nib.load,
    "SimpleITK": lambda path: sitk.ReadImage(str(path)),
    "volume": read_volume,
    "array with affine": pair,
    "channel to path": lambda path: {"t1w": path},
    "channel to image": lambda path: {"T1": nib.load(path)},
}


@pytest.fixture(scope="module")
def command(model: Path, make_scan: MakeScan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, and below `out/a` what the command made of it."""
    folder = tmp_path_factory.mktemp("command")
    write_volume(make_scan(0), folder / "a.nii.gz")
    options = PredictOptions(samples=20, probabilities=True, pictures=False)
    predict(model, (folder / "a.nii.gz",), folder / "out", options, device="cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_that_of_the_command(model: Path, command: Path, kind: str) -> None:
    found = graft.load_model(model, device="cpu").predict(KINDS[kind](command / "a.nii.gz"), samples=20)
    folder = command / "out" / "a"
    written = nib.load(folder / "a.nii.gz")
    assert found.mask.array.dtype == np.uint8
    assert found.mask.array.tobytes() == np.asarray(written.dataobj).tobytes()
    np.testing.assert_allclose(found.mask.affine, written.affine, atol=1e-6)
    maps = {"probability-cube": found.probabilities["cube"], **found.uncertainty}
    assert set(maps) == {"probability-cube", "entropy", "mutual-information", "standard-deviation"}
    for name, volume in maps.items():
        np.testing.assert_array_equal(volume.array, np.asarray(nib.load(folder / f"a_{name}.nii.gz").dataobj))
    facts = json.loads((folder / "a.json").read_text())
    own, structure = facts["structures"]["cube"], found.structures["cube"]
    assert structure.volume_ml == own["volume_ml"]
    assert list(structure.volume_interval_ml) == own["volume_90_percent_ml"]
    assert (structure.dice, structure.dice_error, structure.dice_basis) == tuple(
        own["dice"][key] for key in ("dice", "error", "basis")
    )
    assert (structure.label, structure.voxels, found.draws) == (3, own["voxels"], 20)
    assert list(found.warnings) == facts["suspect"]
    assert found.suspect == bool(facts["suspect"])
    assert found.masks["cube"].array.sum() == own["voxels"]
    if kind in ("path", "text"):
        assert found.facts == facts
    image = found.mask.to_nibabel()
    np.testing.assert_array_equal(np.asarray(image.dataobj), found.mask.array)
    np.testing.assert_allclose(image.affine, found.mask.affine)


def test_a_model_says_what_it_is(model: Path) -> None:
    read = graft.load_model(str(model.parent), device="cpu")
    assert (read.study, read.arm, read.channels, read.classes, read.training_patients) == (
        "tiny", "dwp", ("T1",), {"cube": 3}, 1,
    )  # fmt: skip
    assert len(read.digest) == 64
    assert "dwp" in repr(read)


@pytest.fixture(scope="module")
def two_channels(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("two") / "model", channels=("FLAIR", "T1"), draws=1)


def test_several_channels_by_name_or_along_the_fourth_axis(
    two_channels: Path, make_scan: MakeScan, tmp_path: Path
) -> None:
    flair, t1 = make_scan(0), make_scan(1)
    write_frames([flair, t1], tmp_path / "both.nii.gz")
    write_volume(t1, tmp_path / "t1.nii.gz")
    read = graft.load_model(two_channels, device="cpu")
    first = read.predict({"FLAIR": flair, "T1": t1})
    given: list[Any] = [
        {"T1": tmp_path / "t1.nii.gz", "flair": flair.to_nibabel()},
        tmp_path / "both.nii.gz",
        nib.load(tmp_path / "both.nii.gz"),
        (np.stack([flair.array, t1.array], axis=-1), flair.affine),
    ]
    for images in given:
        again = read.predict(images)
        np.testing.assert_array_equal(again.probabilities["cube"].array, first.probabilities["cube"].array)
        assert again.warnings == first.warnings
    swapped = read.predict({"FLAIR": t1, "T1": flair})
    assert not np.array_equal(swapped.probabilities["cube"].array, first.probabilities["cube"].array)


def test_units_of_a_nibabel_image_are_those_of_its_header(model: Path, make_scan: MakeScan) -> None:
    scan = make_scan(0)
    scale = np.diag([1000.0, 1000.0, 1000.0, 1.0])
    image = nib.Nifti1Image(scan.array, scale @ scan.affine)
    image.header.set_xyzt_units("micron")
    read = graft.load_model(model, device="cpu")
    found, plain = read.predict(image), read.predict(scan)
    np.testing.assert_allclose(found.mask.affine, scan.affine, atol=1e-6)
    np.testing.assert_array_equal(found.mask.array, plain.mask.array)
    assert any("micron" in warning or "µm" in warning for warning in found.warnings)


def test_a_logit_temperature_is_brought_in(make_model: MakeModel, make_scan: MakeScan, tmp_path: Path) -> None:
    plain, tempered = (
        graft.load_model(
            make_model(tmp_path / str(t), bayesian=False, members=2, arm=ArmOptions(logit_temperature=t)), device="cpu"
        ).predict(make_scan(0))
        for t in (1.0, 2.0)
    )
    p = plain.probabilities["cube"].array.astype(np.float64)
    expected = np.sqrt(p) / (np.sqrt(p) + np.sqrt(1 - p))
    np.testing.assert_allclose(tempered.probabilities["cube"].array, expected, atol=1e-4)
    assert (tempered.uncertainty["entropy"].array >= plain.uncertainty["entropy"].array - 1e-4).all()


def test_probabilities_are_left_out_where_they_are_not_wanted(model: Path, make_scan: MakeScan) -> None:
    found = graft.load_model(model, device="cpu").predict(make_scan(0), samples=1, probabilities=False, name="x")
    assert (found.probabilities, set(found.uncertainty), found.name) == ({}, {"entropy"}, "x")
    assert found.structures["cube"].volume_interval_ml is None


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 4)), r"type ndarray; expected a path, .* pair \(array, affine\)"),
        ((np.zeros((4, 4)), np.eye(4)), r"shape 4×4; expected one 3D volume: T1"),
        ((np.zeros((4, 4, 4, 2)), np.eye(4)), "shape 4×4×4×2; expected one 3D volume: T1"),
        ((np.zeros((4, 4, 4), complex), np.eye(4)), "complex128; expected real numbers"),
        ((np.zeros((4, 4, 4)), np.eye(4)), "case image: T1 is constant"),
        ((np.full((4, 4, 4), np.nan), np.eye(4)), "64 voxels that are NaN"),
        ((np.arange(64.0).reshape(4, 4, 4), np.zeros((4, 4))), "T1: its affine cannot be inverted"),
        ({"T2": Volume(np.zeros((4, 4, 4)), np.eye(4))}, "has the channels T2; expected the model's: T1"),
        ("missing.nii.gz", "missing.nii.gz"),
    ],
)
def test_what_is_no_scan_is_one_sentence(model: Path, image: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        graft.load_model(model, device="cpu").predict(image)


def test_options_and_folders_that_are_wrong_are_one_sentence(
    model: Path, make_scan: MakeScan, write_scans: Callable[..., list[Path]], tmp_path: Path
) -> None:
    read = graft.load_model(model, device="cpu")
    with pytest.raises(ConfigError, match="limits"):
        read.predict(make_scan(0), limits={"colour": 1})
    with pytest.raises(ConfigError, match="samples"):
        read.predict(make_scan(0), samples=0)
    write_scans(tmp_path / "many", ["a", "b"])
    with pytest.raises(DataError, match="holds 2 scans; expected one scan"):
        read.predict(tmp_path / "many")
    with pytest.raises(DataError, match=r"the name '../x'"):
        read.predict(make_scan(0), name="../x")
    with pytest.raises(ModelError, match="no such folder"):
        graft.load_model(tmp_path / "none")
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is a MONAI bundle.*run the bundle with MONAI"):
        graft.load_model(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="device 'tpu' is unknown"):
        graft.load_model(model, device="tpu")
