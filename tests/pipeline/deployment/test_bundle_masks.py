"""What a bundle computes is what Graft computes: masks voxel by voxel, networks, ONNX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out
from monai.data import MetaTensor
from scipy import ndimage

from data.image_file import write_volume
from data.modality import Modality
from data.volume import Volume, reorient
from models.networks.factory import NetworkOptions, build_network
from models.networks.monai_networks import DynUNetOptions, SegResNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNetOptions
from models.posteriors.mean_field import MeanFieldOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.member import assemble_member
from pipeline.deployment.export_command import INFERENCE, METADATA, export
from pipeline.deployment.export_options import ExportOptions
from pipeline.deployment.mean_network import mean_networks
from pipeline.deployment.model_folder import Model, read_model
from pipeline.deployment.network_grid import ToNetworkGridd
from pipeline.deployment.predict_command import predict
from pipeline.deployment.predict_options import PredictOptions
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule, Kept
from preprocessing.chain import PreprocessingOptions, default_options
from preprocessing.cropping import CroppingOptions
from preprocessing.intensity import IntensityOptions, Scaling
from preprocessing.padding import PaddingOptions
from preprocessing.resampling import ResamplingOptions
from preprocessing.skull_strip import SkullStripMethod, SkullStripOptions

MakeModel = Callable[..., Path]
MakeScan = Callable[..., Volume]
NO_ONNX = ExportOptions(onnx=False)


def compare(expected: Path, found: Path) -> None:
    names = sorted(p.name for p in expected.iterdir())
    assert names
    assert sorted(p.name for p in found.iterdir()) == names
    for name in names:
        mine, theirs = nib.load(expected / name), nib.load(found / name)
        np.testing.assert_allclose(theirs.affine, mine.affine, atol=1e-5)
        assert theirs.get_data_dtype() == np.uint8
        mask = np.asarray(mine.dataobj)
        assert len(np.unique(mask)) > 1
        np.testing.assert_array_equal(np.asarray(theirs.dataobj), mask)


def run_here(bundle: Path, output: Path, data: Path | None = None) -> None:
    """Runs a bundle in this process."""
    workflow = ConfigWorkflow(
        config_file=str(bundle / INFERENCE),
        meta_file=str(bundle / METADATA),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(data or bundle / "example/input"),
        output_dir=str(output),
    )
    workflow.initialize()
    workflow.run()
    assert not workflow.check_properties()
    workflow.finalize()


@pytest.mark.slow
def test_monais_runner_gives_grafts_masks_of_raw_scans(
    make_model: MakeModel, make_scan: MakeScan, tmp_path: Path
) -> None:
    # Turned, thick-sliced and resampled: both ways between the grids have to agree.
    chain = default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5))})
    model = make_model(tmp_path / "model", preprocessing=chain, bayesian=False)
    (tmp_path / "in").mkdir()
    for number, axes in enumerate(("RAS", "LPS", "SRA")):
        write_volume(reorient(make_scan(number), axes), tmp_path / "in" / f"{axes}.nii.gz")
    bundle = tmp_path / "bundle"
    export(model, bundle, NO_ONNX, examples=(tmp_path / "in",))
    arguments = ["--config_file", "configs/inference.json", "--bundle_root", ".", "--workflow_type", "infer"]
    arguments += ["--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    # Neither Graft nor what only Graft needs may be imported.
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "guard"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    compare(bundle / "example/expected", tmp_path / "out")
    # A point estimate has no draws, so the masks are those of `graft predict` too.
    predict(model, (tmp_path / "in",), tmp_path / "graft", PredictOptions(pictures=False), device="cpu")
    for axes in ("RAS", "LPS", "SRA"):
        mine = nib.load(tmp_path / "graft" / axes / f"{axes}.nii.gz")
        theirs = nib.load(tmp_path / "out" / f"{axes}_mask.nii.gz")
        np.testing.assert_array_equal(np.asarray(theirs.dataobj), np.asarray(mine.dataobj))


GUARD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("data", "models", "pipeline", "preprocessing", "SimpleITK", "nilearn", "typer"):
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Refuse())
"""


WINDOWED = default_options(Modality.CT).model_copy(
    update={
        "resampling": ResamplingOptions(spacing=(3, 3, 3)),
        "intensity": IntensityOptions(scaling=Scaling.WINDOW, window_low=0.0, window_high=300.0),
        "padding": PaddingOptions(multiple=4),
    }
)
CROPPED = default_options(Modality.MR).model_copy(update={"resampling": None, "cropping": CroppingOptions(margin=4.0)})


@pytest.mark.usefixtures("own_scripts")
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "prepared"])
def test_components_are_removed_as_graft_removes_them(
    make_model: MakeModel, write_scans: Callable[..., list[Path]], tmp_path: Path, raw: bool
) -> None:
    steps: dict[str, Any] = {"resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5)) if raw else None}
    if not raw:
        steps["skull_strip"] = SkullStripOptions(method=SkullStripMethod.CONTENT)
    chain = default_options(Modality.MR).model_copy(update=steps)
    (scan,) = write_scans(tmp_path / "in", ["a"])
    pieces = []
    for name, rules in (("plain", {}), ("kept", {"cube": ComponentRule(keep=Kept.LARGEST)})):
        arm = ArmOptions(post_processing=rules)
        model = make_model(tmp_path / name, preprocessing=chain, arm=arm, bayesian=False, seed=5)
        bundle = tmp_path / f"bundle-{name}"
        result = export(model, bundle, NO_ONNX, examples=(scan,))
        assert result.facts.takes.raw == raw
        expected = np.asarray(nib.load(bundle / "example/expected/a_mask.nii.gz").dataobj)
        pieces.append(ndimage.label(expected, structure=np.ones((3, 3, 3)))[1])
    assert pieces[1] == 1 < pieces[0]
    run_here(bundle, tmp_path / "out")
    compare(bundle / "example/expected", tmp_path / "out")
    card, metadata = (bundle / "docs/README.md").read_text(), json.loads((bundle / METADATA).read_text())
    assert "- cube: the largest connected component" in card
    assert metadata["graft"]["post_processing"] == {"cube": "the largest connected component"}
    plain = tmp_path / "bundle-plain"
    assert "connected component" not in (plain / "docs/README.md").read_text()
    assert "post_processing" not in json.loads((plain / METADATA).read_text())["graft"]


@pytest.mark.usefixtures("own_scripts")
@pytest.mark.parametrize("chain", [WINDOWED, CROPPED], ids=["windowed-padded", "cropped"])
def test_every_portable_chain_goes_both_ways(
    make_model: MakeModel, write_scans: Callable[..., list[Path]], tmp_path: Path, chain: PreprocessingOptions
) -> None:
    model = make_model(tmp_path / "model", preprocessing=chain, classes={"cube": 2, "rim": 9})
    scans = write_scans(tmp_path / "in", ["a", "b"])
    result = export(model, tmp_path / "bundle", NO_ONNX, examples=tuple(scans))
    assert result.facts.takes.missing == ()
    run_here(tmp_path / "bundle", tmp_path / "out")
    compare(tmp_path / "bundle/example/expected", tmp_path / "out")


@pytest.mark.usefixtures("own_scripts")
def test_an_ensemble_of_two_channels_and_two_classes(
    make_model: MakeModel, make_scan: MakeScan, tmp_path: Path
) -> None:
    # A temperature changes the masks of an ensemble, whose probabilities are averaged.
    arm = ArmOptions(prior="vae", posterior=MeanFieldOptions(), logit_temperature=3.0, mask=MaskRule.EXPECTED_DICE)
    model = make_model(tmp_path / "model", members=2, channels=("T1", "FLAIR"), classes={"core": 2, "rim": 7}, arm=arm)
    scans = [tmp_path / "in" / f"anna_{number:04d}.nii.gz" for number in range(2)]
    scans[0].parent.mkdir()
    for number, path in enumerate(scans):
        write_volume(make_scan(number), path)
    export(model, tmp_path / "bundle", NO_ONNX, examples=(scans[0].parent,))
    assert sorted(p.name for p in (tmp_path / "bundle/models").iterdir()) == [
        "model-00.safetensors",
        "model-01.safetensors",
    ]
    config = (tmp_path / "bundle" / INFERENCE).read_text()
    # Of several networks, the temperature divides the logits of their mean.
    assert config.index("MeanEnsembled") < config.index(".half().float() / 3.0).softmax(dim=0)")
    assert '"rule": "expected_dice"' in config
    assert "the one with the best expected Dice" in (tmp_path / "bundle/docs/README.md").read_text()
    run_here(tmp_path / "bundle", tmp_path / "out")
    compare(tmp_path / "bundle/example/expected", tmp_path / "out")


@pytest.mark.usefixtures("own_scripts")
@pytest.mark.parametrize("rule", MaskRule)
def test_a_chain_that_a_bundle_cannot_carry_out_takes_prepared_volumes(
    make_model: MakeModel, make_scan: MakeScan, tmp_path: Path, rule: MaskRule
) -> None:
    chain = default_options(Modality.MR).model_copy(
        update={
            "skull_strip": SkullStripOptions(method=SkullStripMethod.CONTENT),
            "resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5)),
            "cropping": CroppingOptions(),
        }
    )
    scan = make_scan(0, (30, 30, 24))
    inside = np.zeros(scan.shape, dtype=bool)
    inside[3:-3, 4:-4, 3:-3] = True
    write_volume(scan.with_array(np.where(inside, scan.array, 0)), tmp_path / "stripped.nii.gz")
    arm = ArmOptions(logit_temperature=3.0, mask=rule)
    model = make_model(tmp_path / "model", preprocessing=chain, arm=arm, bayesian=False)
    bundle = tmp_path / "bundle"
    result = export(model, bundle, NO_ONNX, examples=(tmp_path / "stripped.nii.gz",))
    assert result.facts.takes.missing == ("skull_strip",)
    # MONAI's own transforms find the most probable class.
    assert (bundle / "scripts/preprocessing").exists() == (rule is not MaskRule.MOST_PROBABLE)
    given = nib.load(bundle / "example/input/stripped.nii.gz")
    np.testing.assert_allclose(given.header.get_zooms(), 2.5, atol=1e-5)
    assert (np.asarray(given.dataobj) == 0).any()
    run_here(bundle, tmp_path / "out")
    compare(bundle / "example/expected", tmp_path / "out")
    card = (bundle / "docs/README.md").read_text()
    assert "not raw scans" in card
    assert "skull_strip" in card


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.usefixtures("own_scripts")
def test_masks_of_real_scans_in_two_orientations(make_model: MakeModel, real_data: Path, tmp_path: Path) -> None:
    chain = default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=(2.5, 2.5, 2.5))})
    model = make_model(tmp_path / "model", preprocessing=chain)
    scans = sorted((real_data / "orientations").glob("*.nii.gz"))[:2]
    assert len(scans) == 2
    export(model, tmp_path / "bundle", NO_ONNX, examples=tuple(scans))
    (tmp_path / "in").mkdir()
    for scan in scans:
        (tmp_path / "in" / scan.name).symlink_to(scan.resolve())
    run_here(tmp_path / "bundle", tmp_path / "out", tmp_path / "in")
    compare(tmp_path / "bundle/example/expected", tmp_path / "out")


def test_another_number_of_channels_is_refused() -> None:
    scan = MetaTensor(torch.rand(2, 6, 6, 6), affine=torch.eye(4), meta={"filename_or_obj": "anna.nii.gz"})
    with pytest.raises(ValueError, match=r"anna\.nii\.gz: 2 channels, not 1"):
        ToNetworkGridd("image", 1, {})({"image": scan})
    with pytest.raises(ValueError, match="cannot run skull_strip"):
        ToNetworkGridd("image", 1, {"skull_strip": {}})


NETWORKS: list[NetworkOptions] = [
    ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 1), deep_supervision=1, dropout=0.1),
    UNetOptions(channels=(4, 8), residual_units=1, dropout=0.1),
    UNetOptions(channels=(4, 8), residual_units=0),
    DynUNetOptions(channels=(4, 6, 8, 8), deep_supervision=2, residual=True, dropout=0.1),
    SegResNetOptions(initial_channels=8, encoder_blocks=(1, 1), decoder_blocks=(1,), dropout=0.1),
]


@pytest.mark.usefixtures("own_scripts")
@pytest.mark.parametrize("options", NETWORKS, ids=lambda o: o.name)
def test_every_network_is_rebuilt_from_the_bundle_alone(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: NetworkOptions
) -> None:
    arm = ArmOptions()
    network = build_network(options, 1, 2, 4)
    member = assemble_member(arm, network, [network.state_dict()]).eval()
    about = read_model(model).description.model_copy(update={"network": options, "arm": arm})
    given = Model(model, about, (member,), "0" * 64)
    monkeypatch.setattr("pipeline.deployment.export_command.read_model", lambda path: given)
    bundle = tmp_path / "bundle"
    export(model, bundle, NO_ONNX)
    monkeypatch.syspath_prepend(str(bundle))
    files: dict[str, Any] = {"meta_file": str(bundle / METADATA), "config_file": str(bundle / INFERENCE)}
    verify_net_in_out("network_def", device="cpu", **files)
    workflow = ConfigWorkflow(files["config_file"], workflow_type="infer", logging_file=False, bundle_root=str(bundle))
    workflow.initialize()
    rebuilt = workflow.parser.get_parsed_content("network_def")
    workflow.parser.get_parsed_content("run#0")
    images = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(images), member(images))


@pytest.mark.slow
def test_onnx_agrees_with_torch_at_every_size(make_model: MakeModel, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make_model(tmp_path / "model", arm=ArmOptions(logit_temperature=2.0), bayesian=False)
    export(model, tmp_path / "bundle", ExportOptions())
    assert [p.name for p in sorted((tmp_path / "bundle/models").iterdir())] == ["model.onnx", "model.safetensors"]
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle/models/model.onnx"))
    (network,) = mean_networks(read_model(model))
    for shape in ((1, 1, 16, 16, 8), (4, 1, 16, 16, 8), (2, 1, 12, 20, 9)):
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        (logits,) = session.run(["logits"], {"image": images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(logits, network(images).numpy(), atol=1e-4)
    card = (tmp_path / "bundle/docs/README.md").read_text()
    assert "windows of any size" in card
    assert "Divide the logits by the model's temperature of 2.0 before the softmax." in card
