"""Masks and maps lie on their scan in every viewer; doubts about the geometry are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.image_file import write_volume
from data.volume import Volume
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
from pipeline.execution.stage import StageError

MakeScan = Callable[..., Volume]
Patch = Callable[[nib.Nifti1Header, np.ndarray], None]


def turned(affine: np.ndarray) -> np.ndarray:
    """The affine, its grid turned by 15 degrees about the vertical axis."""
    cos, sin = np.cos(np.pi / 12), np.sin(np.pi / 12)
    return np.array([[cos, -sin, 0, 3], [sin, cos, 0, -2], [0, 0, 1, 1], [0, 0, 0, 1]]) @ affine


def forms(sform: int, qform: int, move: float = 0.0) -> Patch:
    def patch(header: nib.Nifti1Header, affine: np.ndarray) -> None:
        header.set_sform(turned(affine), sform)
        other = turned(affine)
        other[0, 3] += move
        header.set_qform(other, qform)

    return patch


def micrometres(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    larger = affine.copy()
    larger[:3] *= 1000
    header.set_sform(larger, 1)
    header.set_qform(larger, 1)
    header["xyzt_units"] = 3


def scaled(header: nib.Nifti1Header, affine: np.ndarray) -> None:
    header.set_sform(affine, 4)
    header.set_qform(affine, 2)
    header["scl_slope"], header["scl_inter"] = 0.5, 10


def write_raw(path: Path, volume: Volume, patch: Patch) -> None:
    """Writes header fields as they are, which nibabel would make consistent."""
    array = volume.array.astype(np.int16)
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(array.shape)
    header["pixdim"][1:4] = volume.spacing
    header["xyzt_units"], header["vox_offset"], header["magic"] = 2, 352, b"n+1"
    patch(header, volume.affine)
    path.write_bytes(header.binaryblock + bytes(4) + array.tobytes(order="F"))


def run(model: Path, scan: Path, output: Path) -> list[str]:
    """Predicts a scan; returns the reasons to look at it."""
    options = PredictOptions(pictures=False, probabilities=True)
    predict(model, (scan,), output, options, device="cpu")
    name = scan.name.split(".")[0]
    return json.loads((output / name / f"{name}.json").read_text())["suspect"]


def assert_overlaid(scan: Path, written: Path) -> None:
    """Both libraries put scan and map in one place, in the same unit and by the same form."""
    first, second = sitk.ReadImage(str(scan)), sitk.ReadImage(str(written))
    assert first.GetSize() == second.GetSize()
    for read in (sitk.Image.GetOrigin, sitk.Image.GetDirection, sitk.Image.GetSpacing):
        np.testing.assert_allclose(read(first), read(second), rtol=1e-6, atol=1e-5)
    if scan.suffix == ".nii":
        given, made = nib.load(scan), nib.load(written)
        np.testing.assert_array_equal(given.affine, made.affine)
        for name in ("sform_code", "qform_code", "xyzt_units", "srow_x", "qoffset_y", "quatern_d"):
            assert given.header[name] == pytest.approx(made.header[name]), name
        np.testing.assert_array_equal(given.header["pixdim"][:4], made.header["pixdim"][:4])


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (forms(0, 0), "both codes are 0"),
        (forms(0, 1), ""),
        (forms(3, 0), ""),
        (forms(2, 1, move=7.0), "7 mm apart; the sform is used"),
        (micrometres, "µm as its unit; it was converted"),
        (scaled, ""),
    ],
    ids=["codes 0", "qform alone", "sform alone", "forms differ", "micrometres", "scaled"],
)
def test_masks_and_maps_have_the_geometry_fields_of_their_scan(
    model: Path, make_scan: MakeScan, tmp_path: Path, patch: Patch, said: str
) -> None:
    scan = tmp_path / "a.nii"
    write_raw(scan, make_scan(0), patch)
    reasons = run(model, scan, tmp_path / "out")
    told = [reason for reason in reasons if "a.nii" in reason]
    assert len(told) == bool(said)
    assert said in "".join(told)
    written = sorted((tmp_path / "out" / "a").glob("*.nii.gz"))
    assert len(written) == 5
    for path in written:
        assert_overlaid(scan, path)
    assert set(np.unique(nib.load(tmp_path / "out" / "a" / "a.nii.gz").dataobj)) <= {0, 3}


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_maps_of_other_formats_lie_on_their_scan(model: Path, make_scan: MakeScan, tmp_path: Path, suffix: str) -> None:
    volume = make_scan(0)
    scan = tmp_path / f"a{suffix}"
    write_volume(Volume(volume.array, turned(volume.affine)), scan)
    run(model, scan, tmp_path / "out")
    for path in (tmp_path / "out" / "a").glob("*.nii.gz"):
        assert_overlaid(scan, path)


def test_forms_that_mirror_each_other_are_told_first(model: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    def mirrored(header: nib.Nifti1Header, affine: np.ndarray) -> None:
        header.set_sform(affine, 1)
        header.set_qform(np.diag([-1, 1, 1, 1]) @ affine, 1)

    scan = tmp_path / "a.nii"
    write_raw(scan, make_scan(0), mirrored)
    assert "left and right are in doubt" in run(model, scan, tmp_path / "out")[0]
    assert_overlaid(scan, tmp_path / "out" / "a" / "a.nii.gz")


def test_a_sheared_scan_is_refused(model: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    def sheared(header: nib.Nifti1Header, affine: np.ndarray) -> None:
        shear = np.eye(4)
        shear[0, 1] = 0.3
        header.set_sform(affine @ shear, 1)

    scan = tmp_path / "a.nii"
    write_raw(scan, make_scan(0), sheared)
    with pytest.raises(StageError, match="the affine is sheared"):
        run(model, scan, tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()


def test_an_implausible_spacing_is_told(model: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    volume = make_scan(0)
    scan = tmp_path / "a.nii.gz"
    write_volume(Volume(volume.array, np.diag([2.0, 2.0, 80.0, 1.0])), scan)
    assert any("a spacing of 2 × 2 × 80 mm" in reason for reason in run(model, scan, tmp_path / "out"))
