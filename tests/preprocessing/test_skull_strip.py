from __future__ import annotations

import stat
import sys

import numpy as np
import pytest
import torch

from data.errors import PreprocessingError
from data.random_streams import random_stream
from data.volume import Volume
from preprocessing.brain_network import build_network, load_network, save_network
from preprocessing.head_search import find_head
from preprocessing.itk_image import use_itk_threads
from preprocessing.random_heads import draw_head_codes, draw_scan, normalised
from preprocessing.skull_strip import PlausibilityOptions, SkullStrip, SkullStripMethod, SkullStripOptions, implausible
from preprocessing.subject import Subject
from preprocessing.template import head_model, load_template


def _ball(radius_mm=68.0, spacing=4.0, shape=(44, 44, 44)):
    index = np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2
    return Volume(
        (np.linalg.norm(index, axis=-1) * spacing <= radius_mm).astype(np.uint8), np.diag([spacing] * 3 + [1.0])
    )


def test_a_mask_of_a_brains_size_and_form_is_plausible():
    assert implausible(_ball(), PlausibilityOptions()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a * 0, "empty"),
        (lambda a: np.where(np.indices(a.shape)[0] < 18, a, 0), "ml is plausible"),
        (lambda a: np.ones_like(a), "fills 100%"),
        (lambda a: np.where(abs(np.indices(a.shape)[0] - 21) < 3, 0, a), "2 pieces"),
    ],
)
def test_each_implausible_mask_is_told_why(change, reason):
    ball = _ball()
    reasons = implausible(
        ball.with_array(change(ball.array).astype(np.uint8)), PlausibilityOptions(smallest_volume=900)
    )
    assert any(reason in text for text in reasons)


def test_a_ready_made_mask_is_taken_and_judged():
    ball = _ball(30.0)
    image = ball.with_array(np.random.default_rng(0).normal(size=ball.shape).astype(np.float32))
    result, record = SkullStrip(SkullStripOptions()).apply(Subject("a", {"T1": image}, mask=ball))
    np.testing.assert_array_equal(result.mask.array, ball.array)
    assert record["method"] == "ready-made"
    assert "ml" in record["suspect"][0]


def test_a_channel_that_is_not_there_is_named():
    ball = _ball()
    with pytest.raises(PreprocessingError, match="has no channel T9"):
        SkullStrip(SkullStripOptions(channel="T9")).apply(Subject("a", {"T1": ball}))


@pytest.mark.parametrize("method", [SkullStripMethod.HD_BET, SkullStripMethod.SYNTHSTRIP])
def test_a_program_that_is_not_installed_is_named(method, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PreprocessingError, match="is not installed"):
        SkullStrip(SkullStripOptions(method=method)).apply(Subject("a", {"T1": _ball()}))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in program is a script")
def test_synthstrip_is_called_with_scan_mask_and_weights(tmp_path, monkeypatch):
    program = tmp_path / "mri_synthstrip"
    program.write_text(
        f"#!{sys.executable}\nimport sys, shutil\na = sys.argv\n"
        "assert a[a.index('--model') + 1].endswith('weights.pt')\n"
        "shutil.copy(a[a.index('-i') + 1], a[a.index('-m') + 1])\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    (tmp_path / "weights.pt").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    options = SkullStripOptions(method=SkullStripMethod.SYNTHSTRIP, weights=tmp_path / "weights.pt")
    result, _ = SkullStrip(options).apply(Subject("a", {"T1": _ball()}))
    np.testing.assert_array_equal(result.mask.array, _ball().array)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in program is a script")
def test_a_program_that_fails_says_so(tmp_path, monkeypatch):
    program = tmp_path / "hd-bet"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no memory left')\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreprocessingError, match="no memory left"):
        SkullStrip(SkullStripOptions(method=SkullStripMethod.HD_BET)).apply(Subject("a", {"T1": _ball()}))


@pytest.fixture(scope="module")
def codes():
    return draw_head_codes(random_stream(0, "test-head"))


def _dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def _random_head(codes, seed):
    scan = draw_scan(codes, (48, 64, 64), 4.0, random_stream(seed, "test-scan"))
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = [-90, 40, 17]
    return Volume(scan.image[0].numpy(), affine), scan.brain[0].numpy() > 0.5


def test_a_random_scan_is_a_function_of_its_stream(codes):
    first, second, other = (_random_head(codes, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0].array, second[0].array)
    assert (first[0].array != other[0].array).any()
    assert 0 <= first[0].array.min() < first[0].array.max() <= 1


def test_a_scan_of_other_units_looks_the_same_to_the_network():
    image = torch.rand(1, 8, 8, 8)
    torch.testing.assert_close(normalised(image * 500 - 30), normalised(image), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SkullStripMethod.COMBINED, SkullStripMethod.NETWORK])
def test_the_brain_of_a_random_head_is_found(codes, method):
    use_itk_threads(1)
    image, brain = _random_head(codes, 11)
    result, record = SkullStrip(SkullStripOptions(method=method)).apply(Subject("a", {"any": image}))
    assert _dice(result.mask.array > 0, brain) > 0.85
    assert record["volume_ml"] == pytest.approx(result.mask.array.sum() * 64 / 1000)


@pytest.mark.slow
def test_noise_without_a_head_is_suspect():
    use_itk_threads(1)
    image = Volume(np.random.default_rng(0).normal(100, 20, (40, 48, 40)).astype(np.float32), np.diag([4.0, 4, 4, 1]))
    _, record = SkullStrip(SkullStripOptions()).apply(Subject("a", {"T1": image}))
    assert record["suspect"]


@pytest.mark.slow
def test_the_head_model_is_found_in_itself_from_the_top_of_the_head():
    use_itk_threads(1)
    model = head_model(4.0)
    image = model.image.with_array(np.where(model.region, model.image.array, 0))
    moved = Volume(
        image.array, np.array([[1.05, 0, 0, 12], [0, 1, 0.1, -30], [0, -0.1, 1, 25], [0, 0, 0, 1.0]]) @ image.affine
    )
    found, followed = find_head(moved, keep=2)
    template = load_template(4.0)
    points = np.argwhere(template.mask) @ template.image.affine[:3, :3].T + template.image.affine[:3, 3]
    off = (found.matrix - moved.affine @ np.linalg.inv(image.affine)) @ np.c_[points, np.ones(len(points))].T
    assert np.linalg.norm(off[:3], axis=0).mean() < 3
    assert len(followed) == 2


def test_weights_survive_the_trip_to_disk_in_half_precision(tmp_path):
    torch.manual_seed(0)
    network = build_network().eval()
    path = tmp_path / "a.safetensors"
    save_network(network, path, {"steps": 0})
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(path)(image), network(image), atol=5e-2, rtol=5e-2)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(PreprocessingError, match="are missing"):
        load_network(tmp_path / "none.safetensors")
