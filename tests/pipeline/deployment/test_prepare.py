"""`graft preprocess --model`: what it writes is what the bundle takes, and masks find their way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from data.image_file import read_label, read_volume, write_volume
from data.volume import Volume, reorient
from pipeline.cli import main
from pipeline.deployment.export_command import INFERENCE, export
from pipeline.deployment.export_options import ExportOptions
from preprocessing.chain import Modality, PreprocessingOptions, default_options
from preprocessing.cropping import CroppingOptions
from preprocessing.resampling import ResamplingOptions
from preprocessing.skull_strip import SkullStripMethod, SkullStripOptions

MakeModel = Callable[..., Path]
MakeScan = Callable[..., Volume]


@pytest.fixture
def chain() -> PreprocessingOptions:
    """A chain with a step that a bundle cannot run."""
    update = {
        "skull_strip": SkullStripOptions(method=SkullStripMethod.CONTENT),
        "resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5)),
        "cropping": CroppingOptions(),
    }
    return default_options(Modality.MR).model_copy(update=update)


def stripped(scan: Volume) -> Volume:
    inside = np.zeros(scan.shape, dtype=bool)
    inside[3:-3, 4:-4, 3:-3] = True
    return scan.with_array(np.where(inside, scan.array, 0))


def run_bundle(bundle: Path, data: Path, output: Path) -> None:
    workflow = ConfigWorkflow(
        str(bundle / INFERENCE),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(data),
        output_dir=str(output),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.mark.slow
@pytest.mark.usefixtures("own_scripts")
@pytest.mark.parametrize("channels", [("T1",), ("T1", "FLAIR")])
def test_a_bundle_gives_grafts_mask_of_a_prepared_scan_and_it_goes_back(
    make_model: MakeModel, make_scan: MakeScan, chain: PreprocessingOptions, tmp_path: Path, channels: tuple[str, ...]
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    names = ["anna.nii.gz"] if len(channels) == 1 else ["anna_0000.nii.gz", "anna_0001.nii.gz"]
    for number, name in enumerate(names):
        write_volume(stripped(make_scan(number, (30, 30, 24))), scans / name)
    # One class: windows of nothing but zeros give a network that was never trained ties of several.
    model = make_model(tmp_path / "model", preprocessing=chain, bayesian=False, channels=channels, classes={"core": 9})
    export(model, tmp_path / "bundle", ExportOptions(onnx=False), examples=(scans,))
    card = (tmp_path / "bundle/docs/README.md").read_text()
    assert "graft preprocess --model MODEL SCAN --output INPUT" in card
    prepared = tmp_path / "prepared"
    assert main(["preprocess", "--model", str(model), str(scans), "--output", str(prepared)]) == 0
    for name in names:
        given, wanted = read_volume(prepared / name), read_volume(tmp_path / "bundle/example/input" / name)
        np.testing.assert_array_equal(given.array, wanted.array)
        np.testing.assert_allclose(given.affine, wanted.affine)
    run_bundle(tmp_path / "bundle", prepared, tmp_path / "masks")
    mask = names[0].replace(".nii.gz", "_mask.nii.gz")
    made, expected = read_label(tmp_path / "masks" / mask), read_label(tmp_path / "bundle/example/expected" / mask)
    np.testing.assert_array_equal(made.array, expected.array)
    # And back: on the grid of the scan, close to what `predict` decides there of a network's noise.
    back = ["preprocess", "--model", str(model), str(prepared), "--masks", str(tmp_path / "masks")]
    assert main([*back, "--output", str(tmp_path / "native")]) == 0
    assert main(["predict", str(model), str(scans), "--output", str(tmp_path / "predicted"), "--device", "cpu"]) == 0
    carried = read_label(tmp_path / "native" / mask)
    predicted = read_label(tmp_path / "predicted/anna/anna.nii.gz")
    assert carried.same_grid(predicted, 1e-4)
    assert set(np.unique(carried.array)) == {0, 9}
    assert np.mean(carried.array == predicted.array) > 0.8
    assert main([*back, "--output", str(tmp_path / "native")]) == 2


def test_a_structure_comes_back_where_it_was_and_as_large(
    make_model: MakeModel, make_scan: MakeScan, chain: PreprocessingOptions, tmp_path: Path
) -> None:
    scan = reorient(stripped(make_scan(0, (30, 30, 24))), "LSA")
    write_volume(scan, tmp_path / "a.nii.gz")
    model = make_model(tmp_path / "model", preprocessing=chain, bayesian=False, classes={"core": 2, "rim": 9})
    prepared = tmp_path / "prepared"
    assert main(["preprocess", "--model", str(model), str(tmp_path / "a.nii.gz"), "--output", str(prepared)]) == 0
    grid = read_volume(prepared / "a.nii.gz")
    drawn = np.zeros(grid.shape, np.uint8)
    drawn[6:14, 5:12, 4:12] = 2
    drawn[14:18, 5:12, 4:12] = 9
    (tmp_path / "masks").mkdir()
    write_volume(grid.with_array(drawn), tmp_path / "masks/a_mask.nii.gz")
    back = ["preprocess", "--model", str(model), str(prepared), "--masks", str(tmp_path / "masks")]
    assert main([*back, "--output", str(tmp_path / "native")]) == 0
    carried = read_label(tmp_path / "native/a_mask.nii.gz")
    assert carried.same_grid(scan, 1e-4)
    for value in (2, 9):
        before, after = (where(volume, value) for volume in (grid.with_array(drawn), carried))
        assert np.linalg.norm(before[0] - after[0]) < 1.5
        assert after[1] == pytest.approx(before[1], rel=0.25)


def where(volume: Volume, value: int) -> tuple[np.ndarray, float]:
    """Centre in mm and volume in mm³ of a structure."""
    voxels = np.argwhere(volume.array == value)
    centre = volume.affine[:3, :3] @ voxels.mean(axis=0) + volume.affine[:3, 3]
    return centre, len(voxels) * abs(float(np.linalg.det(volume.affine[:3, :3])))


def test_finished_scans_are_kept_and_a_bad_one_stops_no_other(
    make_model: MakeModel,
    make_scan: MakeScan,
    chain: PreprocessingOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, name in enumerate("ab"):
        write_volume(stripped(make_scan(number, (30, 30, 24))), scans / f"{name}.nii.gz")
    (scans / "c.nii.gz").write_bytes(b"no image")
    model = make_model(tmp_path / "model", preprocessing=chain, bayesian=False)
    command = ["preprocess", "--model", str(model), str(scans), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "c.nii.gz" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]
    (scans / "c.nii.gz").unlink()
    (tmp_path / "out/b.nii.gz").unlink()
    stamp = (tmp_path / "out/a.nii.gz").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "out/a.nii.gz").stat().st_mtime_ns == stamp
    assert (tmp_path / "out/b.nii.gz").is_file()
    # Another model's scans are not mixed with these, and foreign files are left alone.
    other = make_model(tmp_path / "other", preprocessing=chain, bayesian=False, seed=5)
    assert main(["preprocess", "--model", str(other), *command[3:]]) == 2
    assert "holds scans for another model" in capsys.readouterr().err
    assert main([*command[:-1], str(scans)]) == 2
    assert "not prepared scans" in capsys.readouterr().err
    assert sorted(p.name for p in scans.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_masks_without_a_record_or_on_another_grid_are_refused(
    make_model: MakeModel,
    make_scan: MakeScan,
    chain: PreprocessingOptions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    scan = tmp_path / "a.nii.gz"
    write_volume(stripped(make_scan(0, (30, 30, 24))), scan)
    model = make_model(tmp_path / "model", preprocessing=chain, bayesian=False)
    assert main(["preprocess", "--model", str(model), str(scan), "--output", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out/records/a/record.json").read_text())
    assert [step["step"] for step in record["records"]]
    back = ["preprocess", "--model", str(model), str(tmp_path / "out"), "--output", str(tmp_path / "native")]
    (tmp_path / "masks").mkdir()
    assert main([*back, "--masks", str(tmp_path / "masks")]) == 2
    assert "holds no masks" in capsys.readouterr().err
    raw = read_volume(scan)
    for name, words in (("b", "is missing"), ("a", "a different grid")):
        mask = tmp_path / f"masks/{name}_mask.nii.gz"
        write_volume(raw.with_array(np.zeros(raw.shape, np.uint8)), mask)
        assert main([*back, "--masks", str(tmp_path / "masks")]) == 2
        assert words in capsys.readouterr().err
        mask.unlink()
    assert not (tmp_path / "native").exists()


def test_the_command_says_what_it_lacks(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["preprocess", "a.nii.gz", "b.nii.gz"]) == 2
    assert "--model" in capsys.readouterr().err
    assert main(["preprocess", "--model", str(model), "a.nii.gz"]) == 2
    assert "no --output" in capsys.readouterr().err
