"""Scans in all kinds of files: each is predicted or refused by name, and a changed one is predicted again."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import Case, ImageSource
from data.image_file import write_volume
from data.volume import Volume, reorient
from pipeline.cli import main
from pipeline.deployment.input_cases import collect_cases
from pipeline.storage.digest import FileDigests

MakeScan = Callable[..., Volume]
WriteScans = Callable[[Path, list[str]], list[Path]]


def predicted(model: Path, *inputs: Path, output: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and case → row of the table."""
    options = ["--device", "cpu", "--set", "pictures=false"]
    code = main(["predict", str(model), *map(str, inputs), "--output", str(output), *options])
    table = csv.DictReader((output / "predictions.csv").open())
    return code, {row["case"]: row for row in table}


def write_as(volume: Volume, path: Path) -> None:
    """Writes the voxels in the kind of file that the suffix says, detached and unpacked where there is a choice."""
    if path.suffix in (".mgz", ".mgh"):
        nib.MGHImage(volume.array, volume.affine).to_filename(path)
    elif path.suffix in (".hdr", ".img"):
        nib.Nifti1Pair(volume.array, volume.affine).to_filename(path)
    else:
        write_volume(volume, path.with_name("x.nrrd"))
        sitk.WriteImage(sitk.ReadImage(str(path.with_name("x.nrrd"))), str(path))
        path.with_name("x.nrrd").unlink()


KINDS = (".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".img", ".mgz", ".mgh")


def test_one_scan_in_every_kind_of_file_gives_one_mask(model: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(0)
    (tmp_path / "in").mkdir()
    for kind in KINDS:
        write_as(scan, tmp_path / "in" / f"as_{kind[1:3]}{kind[-1]}{kind}")
    code, rows = predicted(model, tmp_path / "in", output=tmp_path / "out")
    assert code == 0
    assert len(rows) == len(KINDS)
    masks = [nib.load(tmp_path / "out" / name / f"{name}.nii.gz") for name in rows]
    for mask in masks:
        turned = reorient(Volume(np.asarray(mask.dataobj), mask.affine), "RAS")
        np.testing.assert_allclose(turned.affine, scan.affine, atol=1e-4)
        assert turned.shape == scan.shape
    assert len({row["volume_ml"] for row in rows.values()}) == 1


@pytest.mark.parametrize("kind", [".mhd", ".nhdr", ".img"])
def test_replaced_voxels_with_the_same_header_are_predicted_again(
    model: Path, make_scan: MakeScan, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"scan{kind}"
    stored = tmp_path / ("scan.img" if kind == ".img" else "scan.raw")
    write_as(make_scan(0), path)
    header = (tmp_path / "scan.hdr" if kind == ".img" else path).read_bytes()
    predicted(model, path, output=tmp_path / "out")
    before = stored.read_bytes()
    write_as(make_scan(3), path)
    assert (tmp_path / "scan.hdr" if kind == ".img" else path).read_bytes() == header
    assert stored.read_bytes() != before
    mask = tmp_path / "out" / "scan" / "scan.nii.gz"
    stamp = mask.stat().st_mtime_ns
    _, second = predicted(model, path, output=tmp_path / "out")
    assert mask.stat().st_mtime_ns != stamp
    stamp = mask.stat().st_mtime_ns
    _, third = predicted(model, path, output=tmp_path / "out")
    assert mask.stat().st_mtime_ns == stamp
    assert third == second


def test_the_files_of_a_case_are_all_of_their_parts(make_scan: MakeScan, tmp_path: Path) -> None:
    for name in ("image.mhd", "label.nhdr", "mask.img"):
        write_as(make_scan(0), tmp_path / name)
    case = Case("a", "a", {"T1": ImageSource(tmp_path / "image.mhd")}, tmp_path / "label.nhdr", tmp_path / "mask.img")
    names = ["image.mhd", "image.raw", "label.nhdr", "label.raw", "mask.hdr", "mask.img"]
    assert [path.name for path in case.files()] == names
    digests = FileDigests(tmp_path / "digests.json")
    before = dict(digests.of_files(case.files()))
    for name in ("image.raw", "label.raw", "mask.img"):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(1, 1))
        after = dict(digests.of_files(case.files()))
        assert {key for key in before if before[key] != after[key]} == {name}
        before = after
    (tmp_path / "image.raw").unlink()
    assert dict(digests.of_files(case.files()))["image.mhd"] == before["image.mhd"]


def test_a_file_that_cannot_be_read_has_a_digest_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    digests = FileDigests(tmp_path / "digests.json")
    sound = digests.of_files([tmp_path / "a"])

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.storage.digest.file_digest", denied)
    fresh = FileDigests(tmp_path / "other.json")
    assert fresh.of_files([tmp_path / "a"]) == [("a", "unreadable")] != sound


def test_bad_scans_are_named_and_the_others_are_predicted(
    model: Path, make_scan: MakeScan, write_scans: WriteScans, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "in"
    write_scans(folder, ["sound"])
    scan = make_scan(0)
    arrays = {
        "slice": scan.array[:, :, :1],
        "row": scan.array[:, :1, :1],
        "voxel": scan.array[:1, :1, :1],
        "constant": np.zeros_like(scan.array),
        "nan": np.full_like(scan.array, np.nan),
    }
    for name, array in arrays.items():
        write_volume(Volume(array, scan.affine), folder / f"{name}.nii.gz")
    write_volume(Volume(scan.array, np.diag([500.0, 500, 500, 1])), folder / "huge.nii.gz")
    nib.Nifti1Image(scan.array[:, :, 0], np.eye(4)).to_filename(folder / "flat.nii.gz")
    (folder / "folder.nii.gz").mkdir()
    (folder / "empty.nii.gz").touch()
    os.mkfifo(folder / "fifo.nii.gz")
    (folder / "outside.mhd").write_text("NDims = 3\nDimSize = 2 2 2\nElementDataFile = /etc/passwd\n")
    (folder / "torn.mha").write_bytes(b"ObjectType = Image\nNDims = 3\n")
    code, rows = predicted(model, folder, output=tmp_path / "out")
    printed = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in printed.out + printed.err
    messages = {
        "slice": "a single slice",
        "row": "a single slice",
        "voxel": "a single slice",
        "constant": "is constant",
        "nan": "NaN or infinite",
        "huge": "has a spacing of 500 × 500 × 500 mm",
        "flat": "has shape 17×20; expected one 3D volume",
        "folder": "is a folder",
        "empty": "is empty",
        "fifo": "is a named pipe",
        "outside": "names the file '/etc/passwd', which does not lie beside it",
        "torn": "cannot be read",
    }
    assert set(rows) == {"sound", *messages}
    assert rows["sound"]["state"] == "done"
    for name, message in messages.items():
        assert rows[name]["state"] == "failed"
        assert message in rows[name]["message"], name
        assert "to fix it" in rows[name]["message"]


def test_a_name_that_is_not_utf8_costs_its_case_alone(
    model: Path, write_scans: WriteScans, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (sound,) = write_scans(tmp_path / "in", ["a"])
    for name in (b"odd\xff.nii.gz", b"odd\xfe.mha", b"odd\xfe.dcm"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(sound.read_bytes())
    code, rows = predicted(model, tmp_path / "in", output=tmp_path / "out")
    assert code == 2
    assert {name: row["state"] for name, row in rows.items()} == {
        "a": "done", "odd\\xff": "failed", "odd\\xfe": "failed",
    }  # fmt: skip
    assert "odd\\xff: the file name is not valid UTF-8" in rows["odd\\xff"]["message"]
    assert "odd\\xfe.dcm" in caplog.text


def test_what_is_skipped_in_a_folder_is_named(
    write_scans: WriteScans, make_scan: MakeScan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    write_scans(folder, ["a"])
    for kind in (".img", ".mhd", ".nhdr"):
        write_as(make_scan(0), folder / f"b{kind[1]}{kind}")
    collect_cases([folder], ["T1"])
    assert not caplog.records
    for name in ("c.nii.bz2", "d.npy", "e.dcm", ".hidden", "loose.raw"):
        (folder / name).touch()
    (folder / "below").mkdir()
    found = collect_cases([folder], ["T1"])
    assert [case.name for case in found] == ["a", "bi", "bm", "bn"]
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(f"{folder}: skipped")
    assert "skipped below, c.nii.bz2, d.npy, e.dcm, loose.raw; Graft reads only .nii," in text
    for number in range(20):
        (folder / f"d{number:02d}.dcm").touch()
    caplog.clear()
    collect_cases([folder], ["T1"])
    assert " and 15 more; " in caplog.records[0].getMessage()


def test_files_of_one_image_named_together_are_one_case(make_scan: MakeScan, tmp_path: Path) -> None:
    for kind in (".img", ".mhd"):
        write_as(make_scan(0), tmp_path / f"scan{kind[1]}{kind}")
    found = collect_cases(sorted(tmp_path.iterdir()), ["T1"])
    assert [case.name for case in found] == ["scani", "scanm"]
    (alone,) = collect_cases([tmp_path / "scani.img"], ["T1"])
    assert alone.name == "scani"
