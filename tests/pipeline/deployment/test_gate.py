"""A model says which scans are unlike those of its training, and where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from data.errors import ModelError
from data.image_file import read_volume, write_volume
from data.volume import Volume
from models.feature_gaussian import FeatureGaussian
from pipeline.cli import main
from pipeline.deployment.bids_derivative import _UNCERTAINTY
from pipeline.deployment.gate import FeatureGate
from pipeline.deployment.judgement import Judgement
from pipeline.deployment.model_folder import read_model, write_model
from pipeline.deployment.predict_options import PredictOptions, SuspicionLimits
from pipeline.deployment.suspicion import beyond_the_gates
from pipeline.prediction.scan_features import Moments, scan_features
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import load_about, load_tensors, save_tensors

TOLD = "the features of the network lie"


@pytest.fixture(scope="module")
def guarded(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a gate of twelve training scans."""
    return make_model(tmp_path_factory.mktemp("guarded") / "model", gate_scans=12, bayesian=False)


@pytest.fixture(scope="module")
def scans(make_scan: Callable[..., Volume], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scan like those of the training, and one of which half is a coarse chequered pattern."""
    folder = tmp_path_factory.mktemp("scans")
    like = make_scan(7)
    write_volume(like, folder / "like.nii.gz")
    half = like.array.copy()
    pattern = 600.0 * (np.indices(half.shape).sum(0) // 2 % 2)
    half[: half.shape[0] // 2] = pattern[: half.shape[0] // 2]
    write_volume(like.with_array(half), folder / "half.nii.gz")
    return folder


@pytest.fixture(scope="module")
def predicted(guarded: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predicted") / "out"
    assert main(["predict", str(guarded), str(scans), "--output", str(output), "--jobs", "1"]) == 0
    return output


def facts(folder: Path, case: str) -> dict:
    return json.loads((folder / case / f"{case}.json").read_text())


def test_a_scan_of_which_half_is_a_pattern_is_suspect_and_one_like_the_training_is_not(predicted: Path) -> None:
    like, half = facts(predicted, "like"), facts(predicted, "half")
    assert not [reason for reason in like["suspect"] if TOLD in reason]
    [reason] = [reason for reason in half["suspect"] if TOLD in reason]
    assert "Mahalanobis distance" in reason
    assert "% of scans like them" in reason
    assert like["gate"]["features"]["percentile"] < 0.99 < half["gate"]["features"]["percentile"]
    assert like["gate"]["features"]["limit"] == half["gate"]["features"]["limit"] < half["gate"]["features"]["value"]
    table = (predicted / "predictions.csv").read_text()
    assert table.count(TOLD) == 1


def test_only_of_an_unlike_scan_there_is_a_map_of_where_and_a_row_more_in_its_picture(
    predicted: Path, scans: Path
) -> None:
    assert not (predicted / "like/like_unlikeness.nii.gz").exists()
    where, scan = read_volume(predicted / "half/half_unlikeness.nii.gz"), read_volume(scans / "half.nii.gz")
    assert where.shape == scan.shape
    np.testing.assert_allclose(where.affine, scan.affine, atol=1e-4)
    # The usual distance of a feature is 1, and the pattern is far from it.
    assert where.array[:6].mean() > 1.3 * where.array[-4:].mean()
    like, half = imread(predicted / "like/like.png"), imread(predicted / "half/half.png")
    assert half.shape[1] == like.shape[1]
    assert half.shape[0] - like.shape[0] > 200


def test_the_percentile_is_an_option_and_one_allows_everything(guarded: Path, scans: Path, tmp_path: Path) -> None:
    words = ["predict", str(guarded), str(scans / "half.nii.gz"), "--jobs", "1", "--set", "pictures=false"]
    assert main([*words, "--output", str(tmp_path / "all"), "--set", "limits.gate=1"]) == 0
    found = facts(tmp_path / "all", "half")
    assert not [reason for reason in found["suspect"] if TOLD in reason]
    assert found["gate"]["features"]["limit"] is None
    assert found["gate"]["features"]["percentile"] > 0.99
    assert not (tmp_path / "all/half/half_unlikeness.nii.gz").exists()
    assert main([*words, "--output", str(tmp_path / "bad"), "--set", "limits.gate=1.5"]) == 2


def test_the_default_leaves_what_was_predicted_before_as_it_is() -> None:
    assert "gate" not in PredictOptions().model_dump(mode="json")["limits"]
    assert PredictOptions(limits=SuspicionLimits(gate=0.95)).model_dump(mode="json")["limits"]["gate"] == 0.95


def test_a_model_of_an_earlier_version_has_no_gate_and_works(model: Path, scans: Path, tmp_path: Path) -> None:
    assert read_model(model).gate is None
    words = ["predict", str(model), str(scans / "half.nii.gz"), "--output", str(tmp_path / "out"), "--jobs", "1"]
    assert main([*words, "--set", "pictures=false"]) == 0
    assert "gate" not in facts(tmp_path / "out", "half")


def test_a_gate_needs_five_patients(guarded: Path) -> None:
    found, folder = read_model(guarded), guarded.with_name("model-scans")
    about, member = found.description, found.members[0]
    cases = [CachedCase(f"scan-{n}", f"patient-{n}", folder / f"scan-{n}", {}) for n in range(5)]
    fitted = FeatureGate.fit(member, cases, about.patch, about.window, "cpu")
    assert fitted is not None
    assert (fitted.record.scans, fitted.record.patients, fitted.record.tail.count) == (5, 5, 5)
    assert 0 < fitted.record.intrinsic_dimension <= fitted.record.features
    # Five scans of four patients are four patients.
    same = [*cases[:4], replace(cases[4], patient="patient-0")]
    assert FeatureGate.fit(member, same, about.patch, about.window, "cpu") is None


def rewritten(guarded: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A copy of the model whose gate was changed, with checksums of its own."""
    found = read_model(guarded)

    class Changed:
        def save(self, path: Path) -> None:
            shutil.copy(guarded / "gate.safetensors", path)
            change(path)

    members = [guarded / name for name in found.description.members]
    write_model(folder, found.description, members, Changed())  # type: ignore[arg-type]
    return folder


def of_another_module(path: Path) -> None:
    save_tensors(path, load_tensors(path), {**load_about(path), "module": "encoder.7"})


def of_another_width(path: Path) -> None:
    save_tensors(path, load_tensors(path), {**load_about(path), "features": 3})


def without_a_tensor(path: Path) -> None:
    save_tensors(
        path, {name: own for name, own in load_tensors(path).items() if "pooled" not in name}, load_about(path)
    )


def without_a_tail(path: Path) -> None:
    about = load_about(path)
    del about["tail"]
    save_tensors(path, load_tensors(path), about)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize("change", [of_another_module, of_another_width, without_a_tensor, without_a_tail, cut])
def test_a_gate_that_is_damaged_or_of_another_network_is_refused(
    guarded: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    with pytest.raises(ModelError, match=r"gate\.safetensors"):
        read_model(rewritten(guarded, tmp_path / "model", change))


def test_a_gate_is_covered_by_the_checksums(guarded: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(guarded, tmp_path / "model"))
    (copy / "gate.safetensors").unlink()
    with pytest.raises(ModelError, match=r"gate\.safetensors: is missing"):
        read_model(copy)


def test_moments_of_parts_are_those_of_the_whole() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(50, generator=torch.Generator().manual_seed(1))
    moments = Moments()
    for part in (slice(0, 20), slice(20, 50)):
        moments.add(rows[part], weights[part])
    mean = (weights[:, None] * rows).sum(0) / weights.sum()
    variance = (weights[:, None] * (rows - mean).square()).sum(0) / weights.sum()
    torch.testing.assert_close(moments.pooled(), torch.cat([mean, variance.sqrt()]), rtol=1e-4, atol=1e-5)


def test_features_are_those_of_the_content_alone(guarded: Path) -> None:
    found = read_model(guarded)
    about, member, gate = found.description, found.members[0], found.gate
    assert gate is not None
    image = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    content = torch.zeros(16, 16, 16, dtype=torch.bool)
    content[:8] = True

    def look(inside: torch.Tensor, distribution: FeatureGaussian | None = None):  # type: ignore[no-untyped-def]
        forward, module = member.with_weights(member.centre()), gate.record.module
        return scan_features(member.network, forward, module, image, inside, (16, 16, 16), about.window, distribution)

    half, other, whole = look(content), look(~content), look(torch.ones_like(content))
    middle = len(half.pooled) // 2
    torch.testing.assert_close((half.pooled + other.pooled)[:middle] / 2, whole.pooled[:middle], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(half.pooled, whole.pooled, rtol=1e-2)
    # Every position is kept up to 500, and every other one is the coarsest level of this network along each axis.
    assert (len(half.positions), len(whole.positions)) == (256, 500)
    # Without any content there is nothing to choose.
    torch.testing.assert_close(look(torch.zeros_like(content)).pooled, whole.pooled)
    assert whole.distances is None
    mapped = look(content, gate.positions).distances
    assert mapped is not None
    assert mapped.shape == content.shape


def test_the_reason_says_how_far_and_how_rare() -> None:
    nowhere = torch.zeros(1)
    unlike = Judgement("features", 31.24, 0.99987, 25.0, 9.04, 15.2, nowhere)
    assert beyond_the_gates([unlike]) == [
        "the features of the network lie 31.2 from those of the training scans (Mahalanobis distance; 9.04 to 15.2 "
        "between these), farther than in 99.99 % of scans like them"
    ]
    of_images = replace(
        unlike, score="image model denoising", value=0.31, limit=0.1, low=0.02, high=0.05, percentile=0.995
    )
    assert beyond_the_gates([of_images, replace(unlike, limit=None)]) == [
        "the image model denoising scores the scan 0.31, and scans of other patients of the study 0.02 to 0.05: higher "
        "than 99.50 % of scans like them"
    ]
    assert "more than 99.99 %" in beyond_the_gates([replace(unlike, percentile=0.999999)])[0]
    assert beyond_the_gates([replace(unlike, limit=40.0)]) == []


@pytest.mark.slow
def test_the_card_of_a_bundle_says_how_many_dimensions_the_features_have(
    guarded: Path, model: Path, tmp_path: Path
) -> None:
    assert main(["export", str(guarded), "--output", str(tmp_path / "bundle")]) == 0
    gate = read_model(guarded).gate
    assert gate is not None
    card = (tmp_path / "bundle/docs/README.md").read_text()
    dimension = f"{gate.record.intrinsic_dimension:.1f}"
    assert f"near a surface of {dimension} dimensions, of 6 numbers at a position of 12 training" in card
    assert main(["export", str(model), "--output", str(tmp_path / "older")]) == 0
    assert "near a surface" not in (tmp_path / "older/docs/README.md").read_text()


def test_a_map_among_bids_derivatives_is_described() -> None:
    assert "unlikeness" in _UNCERTAINTY
