"""`graft predict`: native grids, resuming, bad input, BIDS."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import pipeline.deployment.case_prediction as case_prediction
from data.errors import ConfigError, GraftError
from data.image_file import write_volume
from data.layouts.detection import read_dataset
from data.modality import Modality
from data.volume import Volume, reorient
from pipeline.arms.choices import ArmOptions
from pipeline.cli import main
from pipeline.config.reading import read_command_options
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.execution.stage import StageError
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.post_processing import ComponentRule, Kept
from preprocessing.chain import default_options
from preprocessing.resampling import ResamplingOptions

MakeModel = Callable[..., Path]
MakeScan = Callable[..., Volume]
WriteScans = Callable[[Path, list[str]], list[Path]]
ORIENTATIONS = ("RAS", "LAS", "LPS", "RPI", "PIR", "ASL", "SRA", "IPL")
ROOT = Path(__file__).parents[3]


def run(model: Path, *inputs: Path, output: Path, **options: Any) -> list[dict[str, str]]:
    options = {"pictures": False, **options}
    return predict(model, inputs, output, PredictOptions(**options), device="cpu")


def load(path: Path) -> nib.Nifti1Image:
    return nib.load(path)


@pytest.fixture(scope="module")
def coarse(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose chain resamples, so that the way back interpolates."""
    chain = default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5))})
    return make_model(tmp_path_factory.mktemp("coarse") / "model", preprocessing=chain, draws=1)


def test_a_scan_in_each_orientation_gets_the_same_mask(coarse: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    scan = make_scan(0)
    (tmp_path / "in").mkdir()
    for orientation in ORIENTATIONS:
        write_volume(reorient(scan, orientation), tmp_path / "in" / f"{orientation}.nii.gz")
    run(coarse, tmp_path / "in", output=tmp_path / "out")
    turned = []
    for orientation in ORIENTATIONS:
        given = load(tmp_path / "in" / f"{orientation}.nii.gz")
        mask = load(tmp_path / "out" / orientation / f"{orientation}.nii.gz")
        assert mask.get_data_dtype() == np.uint8
        assert mask.shape == given.shape
        np.testing.assert_allclose(mask.affine, given.affine, atol=1e-6)
        back = reorient(Volume(np.asarray(mask.dataobj), mask.affine), "RAS")
        np.testing.assert_allclose(back.affine, scan.affine, atol=1e-6)
        turned.append(back.array)
    assert set(np.unique(turned[0])) == {0, 3}
    for other in turned[1:]:
        np.testing.assert_array_equal(other, turned[0])


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_scan_in_each_orientation_gets_the_same_mask(
    make_model: MakeModel, real_data: Path, tmp_path: Path
) -> None:
    chain = default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=(4, 4, 4))})
    model = make_model(tmp_path / "model", preprocessing=chain, draws=1, patch=(40, 40, 40))
    run(model, real_data / "orientations", output=tmp_path / "out")
    masks = []
    for orientation in ORIENTATIONS:
        mask = load(tmp_path / "out" / orientation / f"{orientation}.nii.gz")
        masks.append(reorient(Volume(np.asarray(mask.dataobj), mask.affine), "RAS").array)
        np.testing.assert_array_equal(masks[-1], masks[0])
    assert 0 < np.count_nonzero(masks[0]) < masks[0].size


def test_maps_lie_on_the_scan_and_agree_with_the_mask(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    (row,) = run(model, path, output=tmp_path / "out", samples=20, probabilities=True, pictures=True)
    folder = tmp_path / "out" / "a"
    given = load(path)
    kinds = ("probability-cube", "entropy", "mutual-information", "standard-deviation")
    maps = {kind: load(folder / f"a_{kind}.nii.gz") for kind in kinds}
    for image in maps.values():
        assert image.get_data_dtype() == np.float32
        assert image.shape == given.shape
        np.testing.assert_allclose(image.affine, given.affine, atol=1e-6)
    p, h, mi, sd = (np.asarray(maps[kind].dataobj, np.float64) for kind in kinds)
    mask = np.asarray(load(folder / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(mask == 3, p > 0.5)
    clipped = np.clip(p, 1e-12, 1 - 1e-7)
    np.testing.assert_allclose(h, -(p * np.log(clipped) + (1 - p) * np.log1p(-clipped)), atol=1e-4)
    assert (mi <= h + 1e-6).all()
    assert (sd <= np.sqrt(p * (1 - p) * 20 / 19) + 1e-5).all()
    assert sd.max() > 0.01
    facts = json.loads((folder / "a.json").read_text())
    cube = facts["structures"]["cube"]
    assert facts["draws"] == 20
    assert cube["volume_ml"] == pytest.approx(np.count_nonzero(mask) * 12 / 1000)
    low, high = cube["volume_90_percent_ml"]
    assert low <= high
    assert cube["expected_dice"] == pytest.approx(2 * p[mask > 0].sum() / ((mask > 0).sum() + p.sum()), rel=1e-5)
    assert 0 < cube["dice_between_draws"] < 1
    # One number is shown; of a model without test cases it is what the prediction expects of itself.
    assert float(row["dice"]) == pytest.approx(cube["expected_dice"], rel=1e-5)
    assert row["dice_error"] == ""
    assert "whose error is unknown" in row["dice_basis"]
    assert float(row["volume_low_ml"]) == pytest.approx(low, rel=1e-5)
    assert (folder / "a.png").read_bytes().startswith(b"\x89PNG")


def test_few_draws_give_no_interval_and_one_no_disagreement(
    model: Path, make_model: MakeModel, write_scans: WriteScans, tmp_path: Path
) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    run(model, path, output=tmp_path / "few")
    facts = json.loads((tmp_path / "few" / "a" / "a.json").read_text())
    assert facts["draws"] == 3
    assert facts["structures"]["cube"]["volume_90_percent_ml"] is None
    run(make_model(tmp_path / "point", bayesian=False), path, output=tmp_path / "one")
    names = {p.name for p in (tmp_path / "one" / "a").iterdir()}
    assert names == {"a.nii.gz", "a_entropy.nii.gz", "a.json", "done.json"}


def test_the_mask_and_the_interval_follow_the_arm(
    make_model: MakeModel, write_scans: WriteScans, tmp_path: Path
) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    sizes, intervals = [], []
    for name, arm in (
        ("plain", ArmOptions(logit_temperature=4.0)),
        ("best", ArmOptions(logit_temperature=4.0, mask=MaskRule.EXPECTED_DICE, voxel_correlation=0.1)),
    ):
        run(make_model(tmp_path / name, bayesian=False, arm=arm), path, output=tmp_path / f"out-{name}")
        sizes.append(np.count_nonzero(np.asarray(load(tmp_path / f"out-{name}" / "a" / "a.nii.gz").dataobj)))
        facts = json.loads((tmp_path / f"out-{name}" / "a" / "a.json").read_text())
        intervals.append(facts["structures"]["cube"]["volume_90_percent_ml"])
    assert sizes[1] > sizes[0] > 0
    assert intervals[0] is None
    assert 0 < intervals[1][0] < intervals[1][1]


def test_post_processing_is_applied_on_the_grid_of_the_scan(
    make_model: MakeModel, write_scans: WriteScans, tmp_path: Path
) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    chain = default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5))})
    masks, volumes, maps = [], [], []
    for name, rules in (("plain", {}), ("kept", {"cube": ComponentRule(keep=Kept.LARGEST)})):
        arm = ArmOptions(post_processing=rules)
        model = make_model(tmp_path / name, bayesian=False, arm=arm, preprocessing=chain, seed=5)
        (row,) = run(model, path, output=tmp_path / f"out-{name}", probabilities=True)
        folder = tmp_path / f"out-{name}" / "a"
        masks.append(np.asarray(load(folder / "a.nii.gz").dataobj) > 0)
        volumes.append(float(row["volume_ml"]))
        maps.append([(folder / f"a_{kind}.nii.gz").read_bytes() for kind in ("entropy", "probability-cube")])
    numbered, count = ndimage.label(masks[0], structure=np.ones((3, 3, 3)))
    assert count > 1
    largest = numbered == np.bincount(numbered.ravel())[1:].argmax() + 1
    np.testing.assert_array_equal(masks[1], largest)
    assert volumes[1] == pytest.approx(largest.sum() * 12 / 1000, rel=1e-5)
    assert volumes[1] < volumes[0]
    # The maps show what the network found.
    assert maps[0] == maps[1]


def test_mirrorings_are_those_of_the_training(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    for name, tta in (("plain", False), ("mirrored", True)):
        run(model, path, output=tmp_path / name, tta=tta, probabilities=True)
    facts = [json.loads((tmp_path / n / "a" / "a.json").read_text())["mirrorings"] for n in ("plain", "mirrored")]
    assert facts == [1, 2]
    plain, mirrored = (
        np.asarray(load(tmp_path / n / "a" / "a_probability-cube.nii.gz").dataobj) for n in ("plain", "mirrored")
    )
    assert np.abs(plain - mirrored).max() > 1e-3


def test_the_mask_is_the_most_probable_class() -> None:
    generator = np.random.default_rng(0)
    probability = generator.dirichlet([1, 1, 1, 1], (5, 4, 3)).astype(np.float32)
    maps = [Volume(probability[..., k], np.eye(4)) for k in (1, 2, 3)]
    expected = np.array([0, 9, 4, 255])[probability.argmax(-1)]
    found = native_mask(iter(maps), [9, 4, 255])
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array, expected)


def test_finished_cases_are_kept_until_something_changes(
    model: Path, write_scans: WriteScans, make_scan: MakeScan, tmp_path: Path
) -> None:
    paths, out = write_scans(tmp_path / "in", ["a", "b"]), tmp_path / "out"

    def times() -> dict[str, int]:
        return {name: (out / name / f"{name}.nii.gz").stat().st_mtime_ns for name in ("a", "b")}

    run(model, *paths, output=out)
    first, table = times(), (out / "predictions.csv").read_bytes()
    run(model, *paths, output=out)
    assert times() == first
    assert (out / "predictions.csv").read_bytes() == table
    write_volume(make_scan(5), paths[1])
    run(model, *paths, output=out)
    second = times()
    assert second["a"] == first["a"]
    assert second["b"] > first["b"]
    options = PredictOptions(pictures=False)
    predict(model, tuple(paths), out, options, device="cpu", resume=False)
    assert all(times()[name] > second[name] for name in ("a", "b"))


_KILLED = """
import os, sys
from pathlib import Path
import pipeline.deployment.case_prediction as case_prediction
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
write = case_prediction.write_json
def die(path, content):
    if path.stem == "b":
        os._exit(9)
    write(path, content)
case_prediction.write_json = die
model, scans, out = map(Path, sys.argv[1:])
predict(model, (scans,), out, PredictOptions(pictures=False), device="cpu")
"""


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    write_scans(tmp_path / "in", ["a", "b", "c"])
    out = tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(model), str(tmp_path / "in"), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env=environment)
    assert killed.returncode == 9, killed.stderr
    assert (out / "a" / "a.nii.gz").is_file()
    assert not (out / "b").exists()
    before = (out / "a" / "a.nii.gz").stat().st_mtime_ns
    rows = run(model, tmp_path / "in", output=out)
    assert [row["case"] for row in rows] == ["a", "b", "c"]
    assert (out / "a" / "a.nii.gz").stat().st_mtime_ns == before
    assert not list(out.rglob(".graft-tmp-*"))


def test_one_bad_file_does_not_stop_the_others(
    model: Path, write_scans: WriteScans, make_scan: MakeScan, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    paths = write_scans(tmp_path / "in", ["a", "broken", "ct", "two_0000", "two_0001", "z"])
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "lost.nii.gz").symlink_to("not-fetched.nii.gz")
    scan = make_scan(0)
    air = scan.with_array(np.where(scan.array > 130, 40, -1000).astype(np.float32))
    write_volume(air, paths[2])
    code = main(
        [
            "predict",
            str(model),
            str(tmp_path / "in"),
            "--output",
            str(tmp_path / "out"),
            "--device",
            "cpu",
            "--set",
            "pictures=false",
        ]
    )
    assert code == 2
    printed = capsys.readouterr()
    assert "4 of 6 units failed" in printed.err
    assert "z  cube" in printed.out
    table = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    states = {row["case"]: row for row in table}
    assert {name: row["state"] for name, row in states.items()} == {
        "a": "done", "broken": "failed", "ct": "failed", "lost": "failed", "two": "failed", "z": "done",
    }  # fmt: skip
    assert "broken.nii.gz" in states["broken"]["message"]
    assert "truncated" in states["broken"]["message"]
    assert "Hounsfield" in states["ct"]["message"]
    assert "lost.nii.gz: is a link to a file that does not exist" in states["lost"]["message"]
    assert "has 2 channels; expected 1" in states["two"]["message"]
    assert not [name for name in ("broken", "ct", "lost", "two") if (tmp_path / "out" / name).exists()]


def test_a_full_disk_leaves_nothing_half_written(
    model: Path, write_scans: WriteScans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scans(tmp_path / "in", ["a", "b", "c"])
    write = case_prediction.write_volume

    def full(volume: Volume, path: Path, geometry: object = None) -> None:
        if path.name == "b_entropy.nii.gz":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(volume, path)

    monkeypatch.setattr(case_prediction, "write_volume", full)
    out = tmp_path / "out"
    with pytest.raises(
        StageError, match=r"1 of 3 units failed.*out: the disk is full.*free some and run the same command again"
    ):
        run(model, tmp_path / "in", output=out)
    assert not (out / "b").exists()
    assert not list(out.rglob(".graft-tmp-*"))
    for name in ("a", "c"):
        done = json.loads((out / name / "done.json").read_text())
        assert all((out / name / file).stat().st_size == size for file, size in done["files"].items())
    monkeypatch.setattr(case_prediction, "write_volume", write)
    assert [row["state"] for row in run(model, tmp_path / "in", output=out)] == ["done"] * 3


def test_a_full_disk_at_the_table_is_told(
    model: Path,
    write_scans: WriteScans,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    write_scans(tmp_path / "in", ["a"])

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.deployment.predict_command.write_predictions", full)
    arguments = ["predict", str(model), str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 2
    assert f"{tmp_path / 'out'}: the disk is full" in capsys.readouterr().err
    assert (tmp_path / "out" / "a" / "done.json").is_file()


def test_a_folder_of_something_else_is_not_written_into(model: Path, write_scans: WriteScans, tmp_path: Path) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    with pytest.raises(GraftError, match="holds files that are not predictions of Graft"):
        run(model, path, output=tmp_path / "in")
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["a.nii.gz"]
    for output in (path, path / "below"):
        with pytest.raises(GraftError, match=r"cannot hold the results.*name another with --output"):
            run(model, path, output=output)


def test_the_command_refuses_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["predict", str(tmp_path / "none"), str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_are_checked() -> None:
    found = read_command_options("predict", PredictOptions, ["limits.structure=5", "samples=4"], {"samples": 7})
    assert (found.limits.structure, found.samples) == (5.0, 7)
    with pytest.raises(ConfigError, match=r"limits\.size"):
        read_command_options("predict", PredictOptions, ["limits.size=0"])
    with pytest.raises(ConfigError, match="nonsense"):
        read_command_options("predict", PredictOptions, ["nonsense=1"])


@pytest.mark.slow
def test_cases_in_parallel_are_those_of_one_after_the_other(
    coarse: Path, write_scans: WriteScans, tmp_path: Path
) -> None:
    write_scans(tmp_path / "in", ["a", "b"])
    options = PredictOptions(pictures=False)
    predict(coarse, (tmp_path / "in",), tmp_path / "two", options, jobs=2, device="cpu")
    predict(coarse, (tmp_path / "in",), tmp_path / "one", options, jobs=1, device="cpu")
    for name in ("a/a.nii.gz", "b/b_entropy.nii.gz", "a/a.json", "predictions.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


def test_bids_in_bids_derivatives_out(model: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    stems = ("sub-1/ses-a/anat/sub-1_ses-a_T1w", "sub-1/ses-b/anat/sub-1_ses-b_T1w", "sub-2/anat/sub-2_T1w")
    for number, stem in enumerate(stems):
        path = tmp_path / "bids" / f"{stem}.nii.gz"
        path.parent.mkdir(parents=True)
        write_volume(make_scan(number), path)
    mask = tmp_path / "bids" / "derivatives" / "tool" / "sub-2" / "anat" / "sub-2_desc-brain_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    inside = np.pad(np.ones([n - 2 for n in make_scan(0).shape], np.uint8), 1)
    write_volume(Volume(inside, make_scan(0).affine), mask)
    # Labels are not needed: what is wrong with them does not matter.
    for kind in ("dseg", "desc-other_dseg"):
        shutil.copy(mask, mask.with_name(f"sub-2_{kind}.nii.gz"))
    out = tmp_path / "out"
    run(model, tmp_path / "bids", output=out, probabilities=True)
    for kind in ("dseg", "desc-other_dseg"):
        mask.with_name(f"sub-2_{kind}.nii.gz").unlink()
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Name"] == "graft"
    assert about["DatasetLinks"] == {"raw": "../bids"}
    assert about["SourceDatasets"] == [{"URL": "bids:raw:"}]
    maps = sorted(out.rglob("*.nii.gz"))
    assert len(maps) == 3 * 5
    for path in maps:
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        stem = next(stem for stem in stems if path.is_relative_to(out / Path(stem).parent))
        scan = f"bids:raw:{stem}.nii.gz"
        drawn = (
            ["bids:raw:derivatives/tool/sub-2/anat/sub-2_desc-brain_mask.nii.gz"] if stem.startswith("sub-2") else []
        )
        assert sidecar["Sources"] == [scan, *drawn]
        assert sidecar["SpatialReference"] == scan
        assert sidecar["GeneratedBy"] == about["GeneratedBy"]
        assert sidecar["Description"]
        assert all(
            (out / about["DatasetLinks"]["raw"] / uri.removeprefix("bids:raw:")).is_file() for uri in [scan, *drawn]
        )
    assert (out / "desc-graft_dseg.tsv").read_text().splitlines()[1] == "3\tcube\tcube"
    assert (out / "sub-2" / "anat" / "sub-2_label-cube_desc-graft_probseg.nii.gz").is_file()
    ignored = (out / ".bidsignore").read_text().split()
    loose = [p for p in out.rglob("*") if p.is_file() and p.name[0] != "." and not any(map(p.match, ignored))]
    allowed = (
        "_dseg.nii.gz",
        "_dseg.json",
        "_probseg.nii.gz",
        "_probseg.json",
        "dataset_description.json",
        "_dseg.tsv",
    )
    assert [p.name for p in loose if not p.name.endswith(allowed)] == []
    # Put into the dataset's derivatives, the masks are its labels.
    shutil.copytree(out, tmp_path / "bids" / "derivatives" / "graft")
    dataset = read_dataset(tmp_path / "bids")
    assert dataset.label_names == {0: "background", 3: "cube"}
    for case in dataset.cases:
        label = case.read_label()
        assert label.same_grid(case.channels["T1w"].read(), 1e-6)
        assert set(np.unique(label.array)) == {0, 3}


def test_bids_datasets_of_several_commands_keep_their_links(model: Path, make_scan: MakeScan, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        path = tmp_path / name / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        write_volume(make_scan(number), path)
    (tmp_path / "two" / "dataset_description.json").write_text(json.dumps({"DatasetDOI": "10.1/x"}))
    out = tmp_path / "one" / "derivatives" / "graft"
    run(model, tmp_path / "one", output=out)
    run(model, tmp_path / "two", output=out)
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetLinks"] == {"raw": "../..", "raw2": "../../../two"}
    assert about["SourceDatasets"] == [{"URL": "bids:raw:"}, {"DOI": "doi:10.1/x", "URL": "https://doi.org/10.1/x"}]
    facts = {name: out / f"sub-{name}" / "anat" / f"sub-{name}_desc-graft_dseg.json" for name in ("one", "two")}
    sources = {name: json.loads(path.read_text())["Sources"] for name, path in facts.items()}
    assert sources == {
        "one": ["bids:raw:sub-one/anat/sub-one_T1w.nii.gz"],
        "two": ["bids:raw2:sub-two/anat/sub-two_T1w.nii.gz"],
    }


def test_no_dice_is_shown_for_a_suspect_case_without_a_warning(
    make_model: MakeModel, write_scans: WriteScans, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (path,) = write_scans(tmp_path / "in", ["a"])
    line = DiceFit.fit([0.5, 0.6, 0.7, 0.8, 0.9], [0.3, 0.45, 0.5, 0.6, 0.75], list("abcde"))
    model = make_model(tmp_path / "model", dice_fits={"cube": line})
    (sound,) = run(model, path, output=tmp_path / "sound")
    image = load(path)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.Nifti1Image(image.get_fdata(), None, image.header).to_filename(tmp_path / "in" / "b.nii.gz")
    (suspect,) = run(model, tmp_path / "in" / "b.nii.gz", output=tmp_path / "suspect")
    assert "both codes are 0" in suspect["suspect"]
    assert suspect["dice_basis"].startswith("NOT for a suspect case")
    assert sound["suspect"] == ""
    assert sound["dice_basis"].startswith("expected Dice, corrected by the mean error of 5 test patients")
    assert float(sound["dice_error"]) > 0
    assert "NOT for a suspect case" in capsys.readouterr().out
