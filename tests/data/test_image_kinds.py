"""Less common forms of image files: odd quaternions, voxel types, encodings, pairs and FreeSurfer's files."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine

from data.case import Case, ImageSource
from data.checks.battery import check_case
from data.errors import DataError
from data.image_file import SUFFIXES, image_parts, image_stem, read_geometry, read_header, read_image, read_volume
from data.nifti_file import diagnose_nifti

AFFINE = np.array([[-1.0, 0, 0, 12], [0, 1.5, 0, -14], [0, 0, 2.0, -10], [0, 0, 0, 1]])
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def nifti(path: Path, quaternion: tuple[float, float, float], sform: int, qform: int = 1) -> Path:
    """A file whose header is written as it is, which nibabel would repair."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(VOXELS.shape)
    header.set_qform(np.diag([1, 1.5, 2, 1]), qform)
    header.set_sform(AFFINE, sform)
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion
    header["qoffset_x"], header["vox_offset"], header["magic"] = 5, 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4) + VOXELS.tobytes(order="F"))
    return path


@pytest.mark.parametrize("length", [1.0, 1.000001, 1.0005])
def test_a_quaternion_longer_than_one_by_rounding_is_that_of_a_rotation(tmp_path: Path, length: float) -> None:
    path = nifti(tmp_path / "a.nii", (0, 0, length), sform=1)
    np.testing.assert_allclose(read_volume(path).affine, AFFINE)
    alone = read_volume(nifti(tmp_path / "b.nii", (0, 0, length), sform=0))
    # Half a turn about the axis to the head.
    np.testing.assert_allclose(alone.affine, [[-1, 0, 0, 5], [0, -1.5, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], atol=1e-6)
    assert diagnose_nifti(path) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.0])
def test_a_qform_of_no_rotation_leaves_the_sform(tmp_path: Path, bad: float) -> None:
    path = nifti(tmp_path / "a.nii", (0, 0, bad), sform=1)
    np.testing.assert_allclose(read_volume(path).affine, AFFINE)
    assert read_header(path).qform is None
    assert "its qform is not a rotation, so the sform is used" in diagnose_nifti(path)
    with pytest.raises(DataError, match="its qform is not a rotation, and it has no sform"):
        read_header(nifti(tmp_path / "b.nii", (0, 0, bad), sform=0))
    # A quaternion that nothing refers to is not looked at.
    assert read_header(nifti(tmp_path / "c.nii", (0, 0, bad), sform=0, qform=0)).sform is None


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nhdr"])
def test_itk_files_of_all_types_are_read(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(VOXELS.T.copy())
    for kind in (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt32, sitk.sitkInt64, sitk.sitkUInt64, sitk.sitkFloat64):
        for packed in (False, True):
            sitk.WriteImage(sitk.Cast(image, kind), str(tmp_path / f"a{suffix}"), useCompression=packed)
            np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}").array, VOXELS)


def test_complex_numbers_and_colours_are_refused_as_such(tmp_path: Path) -> None:
    part = sitk.Cast(sitk.GetImageFromArray(VOXELS.T.copy()), sitk.sitkFloat32)
    sitk.WriteImage(sitk.RealAndImaginaryToComplex(part, part), str(tmp_path / "complex.nrrd"))
    sitk.WriteImage(sitk.RealAndImaginaryToComplex(part, part), str(tmp_path / "complex.mha"))
    sitk.WriteImage(sitk.Compose([part, part, part]), str(tmp_path / "colours.nrrd"))
    text = (tmp_path / "colours.nrrd").read_bytes()
    (tmp_path / "colours.nrrd").write_bytes(text.replace(b"kinds: vector", b"kinds: RGB-color"))
    with pytest.raises(DataError, match="holds complex numbers"):
        read_volume(tmp_path / "complex.nrrd")
    with pytest.raises(DataError, match="holds colours"):
        read_volume(tmp_path / "colours.nrrd")
    # MetaImage has no word for complex numbers: they are two channels.
    with pytest.raises(DataError, match=r"has shape 3×4×5×2; expected one 3D volume"):
        read_volume(tmp_path / "complex.mha")
    bits = nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4))
    bits.header["datatype"], bits.header["bitpix"] = 1, 1
    (tmp_path / "bits.nii").write_bytes(bits.header.binaryblock + bytes(100))
    with pytest.raises(DataError, match=r"bits\.nii"):
        read_volume(tmp_path / "bits.nii")


@pytest.mark.parametrize("axis", [0, 3])
def test_components_of_a_voxel_may_lie_along_any_axis(tmp_path: Path, axis: int) -> None:
    voxels = np.arange(81, dtype="<i2").reshape(3, 3, 3, 3)  # All axes of one length: only the kinds tell them apart.
    kinds, directions = ["domain"] * 3, ["(1,0,0)", "(0,1,0)", "(0,0,1)"]
    kinds.insert(axis, "list")
    directions.insert(axis, "none")
    header = f"NRRD0004\ntype: short\ndimension: 4\nspace: RAS\nsizes: 3 3 3 3\nkinds: {' '.join(kinds)}\n"
    header += f"space directions: {' '.join(directions)}\nendian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + voxels.tobytes(order="F"))
    for frame in range(3):
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd", frame).array, np.take(voxels, frame, axis))


def test_nothing_but_the_checks_tells_of_a_fault_in_a_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header["pixdim"][1:4] *= -1
    image.to_filename(tmp_path / "a.nii")
    caplog.clear()
    read_volume(tmp_path / "a.nii")
    read_geometry(tmp_path / "a.nii")
    assert caplog.records == []


@pytest.mark.parametrize("content", [b"<html>404</html>" * 100, b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_name_in_gz_on_what_is_not_packed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.nii\.gz: cannot be read \(it is not compressed, although its name"):
        read_volume(tmp_path / "a.nii.gz")


def test_text_hex_and_big_endian_voxels(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 3 4 5\nencoding: {}\nendian: {}\n\n"
    big = VOXELS.astype(">i2").tobytes(order="F")
    for encoding, endian, content in (
        ("ascii", "little", " ".join(map(str, VOXELS.ravel(order="F"))).encode()),
        ("hex", "big", big.hex(" ").encode()),
        ("raw", "big", big),
    ):
        (tmp_path / "a.nrrd").write_bytes(header.format(encoding, endian).encode() + content)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").array, VOXELS)
    (tmp_path / "a.nrrd").write_bytes(header.format("zrl", "little").encode() + big)
    with pytest.raises(DataError, match=r"packed as 'zrl'|cannot be read"):
        read_volume(tmp_path / "a.nrrd")
    lines = "ObjectType = Image\nNDims = 3\nBinaryData = {}\nBinaryDataByteOrderMSB = True\nDimSize = 3 4 5\n"
    lines += "ElementSpacing = 1 1 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(lines.format(True).encode() + big)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, VOXELS)
    text = " ".join(map(str, VOXELS.ravel(order="F")))
    (tmp_path / "a.mha").write_text(lines.format(False) + text)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").array, VOXELS)


def test_a_file_that_does_not_say_where_left_and_right_are(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T.copy()), str(tmp_path / "a.mha"))
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T.copy()), str(tmp_path / "a.nrrd"))
    nib.MGHImage(VOXELS, AFFINE).to_filename(tmp_path / "a.mgh")
    matrix, spacing = b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"ElementSpacing = 1 1 1\n"
    for name, before, after, words in (
        ("a.mha", matrix, b"", "its header has no `TransformMatrix`"),
        ("a.mha", spacing, b"", "its header has no `ElementSpacing` and no `TransformMatrix`"),
        ("a.nrrd", b"space: left-posterior-superior\n", b"space dimension: 3\n", "its header has no `space`"),
        ("a.mgh", b"\0\1?\x80", b"\0\0?\x80", "it calls its own orientation invalid"),
    ):
        content = (tmp_path / name).read_bytes()
        assert before in content
        assert bool(read_header(tmp_path / name).unplaced) == (before == spacing)
        (tmp_path / name).write_bytes(content.replace(before, after, 1))
        assert words in read_header(tmp_path / name).unplaced


@pytest.mark.parametrize("spacing", ["nan", "0", "-1"])
def test_an_impossible_spacing_is_refused(tmp_path: Path, spacing: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T.copy()), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes().replace(b"Spacing = 1 1 1", b"Spacing = 1 1 " + spacing.encode())
    (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mha: (has a spacing of 1 × 1 × -1 mm|its affine cannot be inverted)"):
        read_volume(tmp_path / "a.mha")


def test_a_pair_is_one_image_by_either_name(tmp_path: Path) -> None:
    nib.Nifti1Pair(VOXELS, AFFINE).to_filename(tmp_path / "scan.img")
    for name in ("scan.hdr", "scan.img"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, VOXELS)
        np.testing.assert_allclose(read_volume(tmp_path / name).affine, AFFINE)
        assert [part.name for part in image_parts(tmp_path / name)] == ["scan.hdr", "scan.img"]
        assert image_stem(tmp_path / name) == "scan"
    (tmp_path / "scan.img").unlink()
    with pytest.raises(DataError, match=r"its other half scan\.img is missing"):
        read_volume(tmp_path / "scan.hdr")
    nib.AnalyzeImage(VOXELS, AFFINE).to_filename(tmp_path / "old.img")
    with pytest.raises(DataError, match="is an Analyze file, which does not say where left and right are"):
        read_volume(tmp_path / "old.hdr")


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_files_of_freesurfer(tmp_path: Path, suffix: str) -> None:
    nib.MGHImage(VOXELS, AFFINE).to_filename(tmp_path / f"a{suffix}")
    found = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found.array, VOXELS)
    np.testing.assert_allclose(apply_affine(found.affine, [1, 2, 3]), apply_affine(AFFINE, [1, 2, 3]), atol=1e-5)
    nib.MGHImage(np.stack([VOXELS, VOXELS + 1], -1).astype(np.float32), AFFINE).to_filename(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{suffix}", 1).array, VOXELS + 1)
    (tmp_path / f"a{suffix}").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        read_volume(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_readable_file_is_one_sentence(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / f"fifo{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"empty{suffix}").touch()
    (tmp_path / f"text{suffix}").write_text("this is no image\n" * 100)
    (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    odd = tmp_path / os.fsdecode(b"odd\xff" + suffix.encode())
    odd.write_bytes(b"this is no image\n" * 100)
    for path, message in (
        (tmp_path / f"fifo{suffix}", "is a named pipe"),
        (tmp_path / f"folder{suffix}", "is a folder"),
        (tmp_path / f"empty{suffix}", "is empty"),
        (tmp_path / f"text{suffix}", r"cannot be read|other half|Analyze"),
        (tmp_path / f"loop{suffix}", "no such file|cannot be read"),
        (odd, r"cannot be read|other half|not valid UTF-8|Analyze"),
    ):
        for read in (read_header, read_image, read_volume):
            with pytest.raises(DataError, match=message):
                read(path)

    def denied(*arguments: object, **options: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(DataError, match=r"permission denied|other half"):
        read_volume(tmp_path / f"text{suffix}")


def test_a_name_that_is_not_utf8_does_not_end_the_process(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff.mha")
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T.copy()), str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").rename(odd)
    with pytest.raises(DataError, match="name is not valid UTF-8"):
        read_volume(odd)
    odd = odd.with_name(os.fsdecode(b"odd\xff.nii.gz"))
    nib.Nifti1Image(VOXELS, AFFINE).to_filename(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(odd)
    np.testing.assert_array_equal(read_volume(odd).array, VOXELS)


def test_trailing_bytes_are_a_finding(tmp_path: Path) -> None:
    nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), AFFINE).to_filename(tmp_path / "a.nii.gz")
    with (tmp_path / "a.nii.gz").open("ab") as stream:
        stream.write(b"garbage!")
    _, findings = check_case(Case("a", "a", {"T1": ImageSource(tmp_path / "a.nii.gz")}), ("T1",), (0,))
    assert [(finding.check, finding.level.value) for finding in findings] == [("trailing_bytes", "warning")]
    assert "holds 8 bytes after its voxels" in findings[0].found
