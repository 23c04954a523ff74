"""Files: what goes in comes out, and what is broken is refused by name before anything is allocated."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.errors import DataError
from data.image_file import (
    image_stem,
    image_suffix,
    read_header,
    read_image,
    read_label,
    read_volume,
    write_frames,
    write_volume,
)
from data.volume import Volume

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix() * [0.9, -1.1, 5.5]
OBLIQUE[:3, 3] = [-91.5, 33.25, 12.125]


def volume(dtype: type = np.float32, shape: tuple[int, ...] = (5, 6, 7)) -> Volume:
    return Volume(np.random.default_rng(0).normal(100, 30, shape).astype(dtype), OBLIQUE)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_round_trip(tmp_path: Path, suffix: str, dtype: type) -> None:
    original = volume(dtype)
    path = tmp_path / f"scan{suffix}"
    write_volume(original, path)
    copy = read_volume(path)
    np.testing.assert_array_equal(copy.array, original.array)
    np.testing.assert_allclose(copy.affine, original.affine, atol=1e-5)
    assert copy.array.dtype == np.float32
    assert read_header(path).shape == original.shape
    assert read_header(path).dtype == dtype


def test_itk_and_nifti_agree_where_the_voxels_lie(tmp_path: Path) -> None:
    write_volume(volume(), tmp_path / "ours.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "ours.nii.gz")), str(tmp_path / "theirs.nrrd"))
    theirs = read_volume(tmp_path / "theirs.nrrd")
    np.testing.assert_array_equal(theirs.array, volume().array)
    np.testing.assert_allclose(theirs.affine, OBLIQUE, atol=1e-4)


def test_same_volume_same_bytes_and_both_forms_set(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(volume(), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    header = read_header(tmp_path / "a.nii.gz")
    assert header.unit == "mm"
    np.testing.assert_allclose(header.sform, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(header.qform, OBLIQUE, atol=1e-4)


def test_types_that_nifti_lacks_are_stored_in_one_it_has(tmp_path: Path) -> None:
    path = tmp_path / "label.nii.gz"
    for dtype in (np.bool_, np.int64, np.uint64, np.float16):
        array = np.ones((2, 3, 4), dtype)
        write_volume(Volume(array, np.eye(4)), path)
        np.testing.assert_array_equal(read_label(path).array, 1)
    with pytest.raises(DataError, match="64 bits"):
        write_volume(Volume(np.full((2, 2, 2), 2**40), np.eye(4)), path)


def test_frames_become_channels_and_one_frame_is_accepted(tmp_path: Path) -> None:
    frames = [volume(), Volume(volume().array + 1, OBLIQUE)]
    path = tmp_path / "series.nii.gz"
    write_frames(frames, path)
    assert read_header(path).shape == (5, 6, 7, 2)
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(read_volume(path, i).array, frame.array)
        np.testing.assert_array_equal(read_image(path).frames[i].array, frame.array)
    with pytest.raises(DataError, match=r"shape 5×6×7×2.*one 3D volume"):
        read_volume(path)
    with pytest.raises(DataError, match=r"has 2 channels.*channel number 2"):
        read_volume(path, 2)
    single = tmp_path / "single.nii.gz"
    nib.Nifti1Image(frames[0].array[..., None], OBLIQUE).to_filename(single)
    np.testing.assert_array_equal(read_volume(single).array, frames[0].array)
    with pytest.raises(DataError, match=r"has 1 channel;"):
        read_volume(single, 1)


def test_itk_vectors_and_4d_files_are_frames(tmp_path: Path) -> None:
    arrays = [volume().array, volume().array + 1]
    images = [sitk.GetImageFromArray(array.T) for array in arrays]
    sitk.WriteImage(sitk.Compose(images), str(tmp_path / "vector.nrrd"))
    sitk.WriteImage(sitk.JoinSeries(images), str(tmp_path / "series.mha"))
    sitk.WriteImage(sitk.JoinSeries(images[:1]), str(tmp_path / "single.mha"))
    for name in ("vector.nrrd", "series.mha"):
        assert read_header(tmp_path / name).shape == (5, 6, 7, 2)
        np.testing.assert_array_equal(read_volume(tmp_path / name, 1).array, arrays[1])
        with pytest.raises(DataError, match="one 3D volume"):
            read_volume(tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / "single.mha").array, arrays[0])


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    image.to_filename(tmp_path / "scaled.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "scaled.nii").array.ravel(), np.arange(8) * 0.5 - 3)


@pytest.mark.parametrize("cut", [100, 360, 2000])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str, cut: int) -> None:
    path = tmp_path / f"torn{suffix}"
    write_volume(volume(shape=(20, 20, 20)), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=f"torn\\{suffix}"):
        read_volume(path)


def test_a_damaged_gzip_stream_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "damaged.nii.gz"
    write_volume(volume(), path)
    content = gzip.decompress(path.read_bytes())
    stream = bytearray(gzip.compress(content, compresslevel=0))
    stream[600] ^= 255  # A voxel: stored blocks unpack whatever they hold.
    path.write_bytes(stream)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_volume(path)


def test_bytes_after_the_voxels_and_several_gzip_members_are_read(tmp_path: Path) -> None:
    path = tmp_path / "members.nii.gz"
    write_volume(volume(), path)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:] + bytes(100)))
    np.testing.assert_array_equal(read_volume(path).array, volume().array)


def header_claiming(shape: tuple[int, int, int]) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + bytes(4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.sampled_from([".nii", ".nii.gz", ".mha", ".nrrd"]),
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_no_damage_to_a_header_escapes_as_another_error(
    tmp_path: Path, suffix: str, damage: list[tuple[int, int]]
) -> None:
    path = tmp_path / f"fuzz{suffix}"
    write_volume(volume(np.int16, (3, 4, 5)), path)
    content = path.read_bytes()
    damaged = bytearray(gzip.decompress(content) if suffix == ".nii.gz" else content)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    path.write_bytes(gzip.compress(damaged) if suffix == ".nii.gz" else damaged)
    with contextlib.suppress(DataError):  # Anything else fails the test.
        found = read_volume(path)
        assert found.array.ndim == 3
        assert np.isfinite(found.affine).all()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"])
def test_a_header_that_claims_too_much_allocates_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"huge{suffix}"
    if suffix == ".nii.gz":
        path.write_bytes(gzip.compress(header_claiming((30000, 30000, 30000)) + bytes(1000)))
    elif suffix == ".nii":
        path.write_bytes(header_claiming((30000, 30000, 30000)) + bytes(1000))
    else:
        write_volume(volume(), path)
        content = path.read_bytes().replace(b"DimSize = 5 6 7", b"DimSize = 30000 30000 30000")
        path.write_bytes(content.replace(b"sizes: 5 6 7", b"sizes: 30000 30000 30000"))
    tracemalloc.start()
    with pytest.raises(DataError, match="header claims 30000×30000×30000 voxels"):
        read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_claim_that_deflate_could_hold_is_counted_and_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "large.nii.gz"
    noise = np.random.default_rng(0).bytes(400_000)
    path.write_bytes(gzip.compress(header_claiming((500, 500, 500)) + noise))
    tracemalloc.start()
    with pytest.raises(DataError, match="truncated"):
        read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_more_voxels_than_any_scan_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse.nii"
    path.write_bytes(header_claiming((1300, 1300, 1300)))
    with path.open("r+b") as stream:
        stream.truncate(352 + 2 * 1300**3)  # A sparse file: the bytes are there, and take no room.
    with pytest.raises(DataError, match="has 1300×1300×1300 voxels; expected at most 2,147,483,648"):
        read_header(path)


def test_a_missing_detached_file_is_named(tmp_path: Path) -> None:
    write_volume(volume(), tmp_path / "scan.mhd")
    next(tmp_path.glob("scan.*raw")).unlink()
    with pytest.raises(DataError, match=r"names the file scan\.z?raw"):
        read_volume(tmp_path / "scan.mhd")


def test_what_is_no_volume_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "slice.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("series", "slice.dcm", "IM0001"):
        with pytest.raises(DataError, match="dcm2niix"):
            read_volume(tmp_path / name)
    with pytest.raises(DataError, match=r"not a supported image file; expected one of .nii"):
        read_volume(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no such file"):
        read_volume(tmp_path / "absent.nii.gz")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(DataError, match=r"text\.nii: cannot be read"):
        read_volume(tmp_path / "text.nii")


def test_colours_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(colours, np.eye(4)).to_filename(tmp_path / "colours.nii.gz")
    nib.Nifti1Image(np.zeros((3, 3, 3), np.complex64), np.eye(4)).to_filename(tmp_path / "complex.nii.gz")
    for name in ("colours", "complex"):
        with pytest.raises(DataError, match=f"holds {name}"):
            read_volume(tmp_path / f"{name}.nii.gz")


@pytest.mark.parametrize("fault", [np.nan, 0.0])
def test_an_affine_of_no_use_is_refused(tmp_path: Path, fault: float) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.eye(4))
    image.header["srow_x"] = fault
    image.header["sform_code"] = 1
    path = tmp_path / "flat.nii"
    path.write_bytes(image.header.binaryblock + bytes(4 + 27 * 4))
    with pytest.raises(DataError, match="its affine"):
        read_volume(path)
    assert read_header(path).affine_fault


@pytest.mark.parametrize(("spacing", "expected", "ignored"), [(500.0, 0.5, False), (1.0, 1.0, True)])
def test_micrometres_are_converted_where_that_is_possible(
    tmp_path: Path, spacing: float, expected: float, ignored: bool
) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), np.diag([spacing] * 3 + [1]))
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "small.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "small.nii.gz").spacing, expected)
    assert read_header(tmp_path / "small.nii.gz").unit_ignored is ignored


@pytest.mark.parametrize(
    ("value", "message"), [(0.5, "not whole"), (np.nan, "are NaN"), (-1, "from -1 to"), (40000, "to 40000")]
)
def test_labels_are_whole_numbers_of_16_bits(tmp_path: Path, value: float, message: str) -> None:
    array = np.zeros((3, 3, 3), np.float32)
    array[1, 1, 1] = 7
    write_volume(Volume(array, np.eye(4)), tmp_path / "label.nii.gz")
    label = read_label(tmp_path / "label.nii.gz")
    assert label.array.dtype == np.int16
    assert label.array[1, 1, 1] == 7
    array[0, 0, 0] = value
    write_volume(Volume(array, np.eye(4)), tmp_path / "label.nii.gz")
    with pytest.raises(DataError, match=message):
        read_label(tmp_path / "label.nii.gz")


def test_a_shear_needs_nifti(tmp_path: Path) -> None:
    sheared = Volume(volume().array, OBLIQUE @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    write_volume(sheared, tmp_path / "sheared.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "sheared.nii.gz").affine, sheared.affine, atol=1e-5)
    with pytest.raises(DataError, match="sheared"):
        write_volume(sheared, tmp_path / "sheared.nrrd")


def test_names() -> None:
    assert image_suffix(Path("A.NII.GZ")) == ".nii.gz"
    assert image_stem(Path("x/a.b.nii.gz")) == "a.b"
    assert image_suffix(Path("a.txt")) == ""
    with pytest.raises(DataError, match="not a file name for this image"):
        write_volume(volume(), Path("a.txt"))
    other = Volume(volume().array, np.eye(4))
    with pytest.raises(ValueError, match="one grid"):
        write_frames([volume(), other], Path("a.nii"))
