"""One bad scan never stops a study's preprocessing: it is named, and the others are done and kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.image_file import read_label, read_volume, write_volume
from data.volume import Volume, reorient
from pipeline.cli import main

pytestmark = pytest.mark.slow


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def one_slice(path: Path) -> None:
    volume = read_volume(path)
    write_volume(Volume(volume.array[:, :, :1], volume.affine), path)


def two_dimensional(path: Path) -> None:
    nib.Nifti1Image(np.zeros((9, 9), np.float32), np.eye(4)).to_filename(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    write_volume(Volume(read_volume(path).array, np.diag([500.0, 500, 500, 1])), path)


BREAKS: dict[str, Callable[[Path], None]] = {
    "case_0": truncate,
    "case_1": one_slice,
    "case_2": two_dimensional,
    "case_3": folder,
    "case_4": fifo,
    "case_5": huge,
}


def test_bad_scans_fail_by_name_and_the_others_are_preprocessed(
    write_cohort: Callable[..., Path],
    write_study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    for case, break_it in BREAKS.items():
        break_it(cohort / "imagesTr" / f"{case}.nii.gz")
    config = write_study(tmp_path / "tiny.yaml", cohort, source={"patients": 4})
    code = main(["preprocess", str(config), "--workspace", str(tmp_path / "workspace"), "--jobs", "1"])
    printed = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in printed.out + printed.err
    used = set()
    plan = json.loads((tmp_path / "workspace" / "check" / "study" / "study.json").read_text())
    for patients in plan["split"].values():
        for cases in patients.values():
            used |= set(cases)
    done = {path.parent.name for path in (tmp_path / "workspace" / "preprocess").rglob("done.json")}
    assert done == used - set(BREAKS)
    failed = [record.getMessage() for record in caplog.records if record.getMessage().startswith("failed ")]
    assert len(failed) == 6
    for case in used & set(BREAKS):
        assert any(f"/{case}: " in message for message in failed)


def test_labels_turned_or_off_by_rounding_give_the_same_arrays(
    write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path: Path
) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    turned = Path(shutil.copytree(cohort, tmp_path / "turned"))
    for number, orientation in enumerate(("RAS", "PIR", "ASL", "LPS", "RPI", "IPL", "SRA", "LAS", "RAS")):
        path = turned / "labelsTr" / f"case_{number}.nii.gz"
        label = read_label(path)
        affine = label.affine.copy()
        affine[0, 3] += 0.4  # Of 2 mm.
        write_volume(reorient(Volume(label.array.astype(np.uint8), affine), orientation), path)
    stored = []
    for root in (cohort, turned):
        config = write_study(tmp_path / f"{root.name}.yaml", root)
        workspace = tmp_path / f"workspace-{root.name}"
        assert main(["preprocess", str(config), "--workspace", str(workspace), "--jobs", "1"]) == 0
        arrays = sorted((workspace / "preprocess").rglob("*.safetensors"))
        stored.append([path.read_bytes() for path in arrays])
    assert len(stored[0]) == 8
    assert stored[0] == stored[1]
