"""Damaged files are refused wherever the damage lies, and a header leads to no file but its own."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, ImageSource
from data.checks.battery import check_case
from data.checks.finding import Level
from data.checks.interrupted_copy import zeros_from
from data.errors import DataError
from data.image_file import image_parts, read_header, read_image, read_volume, write_volume
from data.packed_stream import DamagedStreamError, inflate, unpack_bzip2
from data.volume import Volume

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
PACKED = [".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", "_bz2.nrrd"]
PLAIN = [".nii", ".img", "_raw.mha", "_raw.mhd", "_raw.nrrd", "_raw.nhdr", ".mgh"]


def scan() -> np.ndarray:
    # Large enough for several blocks of deflate, and noisy, so that most bytes of the file are voxels.
    return np.random.default_rng(0).integers(0, 4000, (40, 41, 42)).astype(np.int16)


def written(folder: Path, kind: str) -> tuple[Path, Path]:
    """Writes the scan; returns the image and the file that holds its voxels."""
    path = folder / f"scan{kind}"
    if kind in (".mgz", ".mgh"):
        nib.MGHImage(scan(), AFFINE).to_filename(path)
    elif kind == ".img":
        nib.Nifti1Pair(scan(), AFFINE).to_filename(path)
        path = folder / "scan.hdr"
    elif kind.startswith("_raw"):
        sitk.WriteImage(sitk.GetImageFromArray(scan().T.copy()), str(path))
    elif kind == "_bz2.nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(scan().T.copy()), str(path))
        text, voxels = path.read_bytes().split(b"\n\n", 1)
        path.write_bytes(text.replace(b"encoding: raw", b"encoding: bzip2") + b"\n\n" + bz2.compress(voxels))
    else:
        write_volume(Volume(scan(), AFFINE), path)
    return path, image_parts(path)[-1]


def truncated(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def zeroed(share: float) -> Callable[[bytes], bytes]:
    """The rest of an interrupted copy into a file that was made at its full length before."""
    return lambda content: content[: int(len(content) * share)] + bytes(len(content) - int(len(content) * share))


def flipped(share: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        position = int(len(content) * share)
        return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]

    return flip


DAMAGES = {
    f"{name} at {share}": make(share)
    for name, make in (("truncated", truncated), ("zeroed", zeroed), ("flipped", flipped))
    for share in (0.1, 0.5, 0.9, 0.999)
}


@pytest.mark.parametrize("kind", PACKED + PLAIN)
def test_a_sound_file_is_read(tmp_path: Path, kind: str) -> None:
    path, _ = written(tmp_path, kind)
    found = read_image(path)
    np.testing.assert_array_equal(found.frames[0].array, scan())
    np.testing.assert_array_equal(read_volume(path).array, scan())
    assert found.header.ignored_bytes == 0
    assert found.header.shape == scan().shape


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", PACKED)
def test_no_damaged_compressed_file_is_read(tmp_path: Path, kind: str, damage: str) -> None:
    path, voxels = written(tmp_path, kind)
    voxels.write_bytes(DAMAGES[damage](voxels.read_bytes()))
    with pytest.raises(DataError, match=re.escape(path.name)):
        read_volume(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", PLAIN)
def test_no_short_file_is_read(tmp_path: Path, kind: str, share: float) -> None:
    path, voxels = written(tmp_path, kind)
    voxels.write_bytes(truncated(share)(voxels.read_bytes()))
    with pytest.raises(DataError, match=r"wrong or the file is truncated"):
        read_volume(path)


@pytest.mark.parametrize("kind", ["_raw.mhd", "_raw.nhdr", "_raw.mha", "_raw.nrrd"])
def test_more_voxels_than_the_header_claims_are_another_type_or_shape(tmp_path: Path, kind: str) -> None:
    path, voxels = written(tmp_path, kind)
    voxels.write_bytes(voxels.read_bytes() + bytes(100))
    with pytest.raises(DataError, match=r"claims 137,760 bytes of voxels.*the file holds 137,860"):
        read_volume(path)


@pytest.mark.parametrize("kind", [".nii.gz", ".mha", ".nrrd", ".mgz", "_bz2.nrrd"])
@pytest.mark.parametrize("tail", [b"garbage!", bytes(3000), b"\x1f"])
def test_bytes_after_a_compressed_stream_are_ignored_and_counted(tmp_path: Path, kind: str, tail: bytes) -> None:
    path, voxels = written(tmp_path, kind)
    voxels.write_bytes(voxels.read_bytes() + tail)
    found = read_image(path)
    np.testing.assert_array_equal(found.frames[0].array, scan())
    assert found.header.ignored_bytes == len(tail)


def test_a_damaged_second_member_is_no_garbage(tmp_path: Path) -> None:
    path, _ = written(tmp_path, ".nii.gz")
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:50_000]) + gzip.compress(content[50_000:])[:-10])
    with pytest.raises(DataError, match="the compressed stream does not end"):
        read_volume(path)


@pytest.mark.slow
def test_inflating_keeps_what_is_wanted_and_counts_the_rest() -> None:
    content = os.urandom(100_000) * 30
    for packed in (gzip.compress(content), zlib.compress(content)):
        assert inflate(packed + b"xyz", len(content)) == (content, len(content), 3)
        found, held, _ = inflate(packed, 1000)
        assert (found, held > 2000) == (content[:1000], True)
    with pytest.raises(DamagedStreamError):
        inflate(zlib.compress(content), len(content), gzip_only=True)
    with pytest.raises(DamagedStreamError):
        inflate(b"", 10)
    assert unpack_bzip2(bz2.compress(content) + b"xyz", len(content)) == (content, len(content), 3)
    assert unpack_bzip2(bz2.compress(content), 1000)[1] > 1000
    # Parallel packers write one stream after another.
    several = b"".join(bz2.compress(content[i : i + 700_000]) for i in range(0, len(content), 700_000))
    assert unpack_bzip2(several + b"xyz", len(content)) == (content, len(content), 3)
    assert unpack_bzip2(several, len(content) - 1)[1] == len(content)
    with pytest.raises(DamagedStreamError):
        unpack_bzip2(several[:-20], len(content))


def meta_image(folder: Path, named: str, *more: str) -> Path:
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["ElementSpacing = 1 1 1", "DimSize = 2 3 4", "ElementType = MET_SHORT", f"ElementDataFile = {named}"]
    (folder / "scan.mhd").write_text("\n".join([*lines, *more]) + "\n")
    return folder / "scan.mhd"


def nrrd(folder: Path, named: str, *more: str) -> Path:
    lines = ["NRRD0004", "type: short", "dimension: 3", "sizes: 2 3 4", "endian: little", "encoding: raw"]
    (folder / "scan.nhdr").write_text("\n".join([*lines, f"data file: {named}", *more]) + "\n")
    return folder / "scan.nhdr"


HEADERS = [meta_image, nrrd]
VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4, order="F")


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "sub/secret.raw", "..", ".", "sub\\secret.raw"])
def test_a_header_names_plain_files_beside_it_alone(tmp_path: Path, header: Callable[..., Path], name: str) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", folder / "sub" / "secret.raw"):
        secret.write_bytes(VOXELS.tobytes(order="F"))
    for named in ((name,), ("LIST", name), (f"sub/{name}%01d 1 1 1",)):
        path = header(folder, *named)
        for read in (read_header, read_volume):
            with pytest.raises(DataError, match=r"does not lie beside it; .*the plain name of a file"):
                read(path)
        assert image_parts(path) == (path,)


@pytest.mark.parametrize("header", HEADERS)
def test_voxels_in_one_file_or_several_are_read_and_are_parts_of_the_image(
    tmp_path: Path, header: Callable[..., Path]
) -> None:
    content = VOXELS.tobytes(order="F")
    (tmp_path / "all.raw").write_bytes(content)
    for number in range(4):
        (tmp_path / f"slice{number + 1:02d}.raw").write_bytes(content[number * 12 : number * 12 + 12])
    slices = [f"slice{number + 1:02d}.raw" for number in range(4)]
    for named, files in (
        (("all.raw",), ["all.raw"]),
        (("./all.raw",), ["all.raw"]),
        (("LIST", *slices), slices),
        (("slice%02d.raw 1 4 1",), slices),
    ):
        path = header(tmp_path, *named)
        np.testing.assert_array_equal(read_volume(path).array, VOXELS)
        assert [part.name for part in image_parts(path)] == [path.name, *files]


@pytest.mark.parametrize("header", HEADERS)
def test_what_is_named_has_to_be_a_regular_file(tmp_path: Path, header: Callable[..., Path]) -> None:
    (tmp_path / "folder.raw").mkdir()
    os.mkfifo(tmp_path / "fifo.raw")
    for name, why in (("folder.raw", "not a regular file"), ("fifo.raw", "not a regular file"), ("gone.raw", "exist")):
        with pytest.raises(DataError, match=why):
            read_volume(header(tmp_path, name))
    with pytest.raises(DataError, match=r"names 999,999,999 files"):
        read_volume(header(tmp_path, "s%09d.raw 1 999999999 1"))
    for name in "abcde":
        (tmp_path / name).write_bytes(bytes(10))
    with pytest.raises(DataError, match=r"unevenly|cannot be read"):
        read_volume(header(tmp_path, "LIST", *"abcde"))


def test_bytes_and_lines_before_the_voxels_are_skipped(tmp_path: Path) -> None:
    content = VOXELS.tobytes(order="F")
    (tmp_path / "all.raw").write_bytes(b"a line\nanother\nxyz" + content)
    for path in (
        nrrd(tmp_path, "all.raw"),
        meta_image(tmp_path, "all.raw"),
    ):
        text = path.read_text()
        for skip in ("18", "-1"):
            path.write_text(
                text.replace("data file", f"byte skip: {skip}\ndata file").replace(
                    "ElementDataFile", f"HeaderSize = {skip}\nElementDataFile"
                )
            )
            np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    path = nrrd(tmp_path, "all.raw")
    path.write_text(path.read_text().replace("data file", "line skip: 2\nbyte skip: 3\ndata file"))
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)


@pytest.mark.parametrize("kind", [".nii", "_raw.mhd", "_raw.nhdr", "_raw.mha", ".img", ".mgh"])
def test_an_interrupted_copy_of_an_unpacked_file_is_a_warning(tmp_path: Path, kind: str) -> None:
    path, voxels = written(tmp_path, kind)
    case = Case("a", "a", {"T1": ImageSource(path)})

    def found() -> list[str]:
        _, findings = check_case(case, ("T1",), (0,))
        assert not [finding for finding in findings if finding.level is Level.ERROR]
        return [finding.found for finding in findings if finding.check == "interrupted_copy"]

    assert found() == []
    content = voxels.read_bytes()
    kept = 8 * 4096
    voxels.write_bytes(content[:kept] + bytes(len(content) - kept))
    (sentence,) = found()
    assert f"the last {1 - kept / len(content):.0%} of {voxels.name} are zeros" in sentence
    # Background that ends anywhere else is none.
    voxels.write_bytes(content[: kept + 100] + bytes(len(content) - kept - 100))
    assert found() == []


def test_where_the_zeros_at_the_end_begin(tmp_path: Path) -> None:
    for content in (
        b"",
        b"abc",
        b"abc" + bytes(5),
        bytes(10),
        b"a" + bytes(3_000_000),
        bytes(5000) + b"a" + bytes(9000),
    ):
        (tmp_path / "a").write_bytes(content)
        assert zeros_from(tmp_path / "a") == len(content.rstrip(b"\0"))
