"""Image models in a study: their scans, their training, and what bad input is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import TrainingError, WorkspaceError
from models.image_models.objectives import OBJECTIVE_NAMES, Denoising, Variational
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.cached_image import FOREGROUND, CachedImage
from pipeline.storage.file_names import PICTURES
from pipeline.storage.tensors import load_tensors, save_arrays, save_tensors
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.computing import ComputingOptions, Precision
from pipeline.training.image_model_files import MODEL, read_image_model
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.image_model_training import ImageModelTask, of_images, train_image_model
from pipeline.training.patches import PatchOptions

NETWORK = ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 1))
MakeCase = Callable[..., CachedCase]


@pytest.fixture
def task(make_case: MakeCase) -> ImageModelTask:
    patients = {f"p{number}": [CachedImage.of(make_case(f"c{number}", 14))] for number in range(3)}
    return ImageModelTask(
        "model", 3, {"source": patients}, NETWORK, ImageModelOptions(steps=4, log_every=1),
        PatchOptions(size=(16, 16, 16), batch=1), AugmentationOptions(), ComputingOptions(precision=Precision.FLOAT32),
    )  # fmt: skip


def with_objective(task: ImageModelTask, kind: str) -> ImageModelTask:
    return replace(
        task, options=task.options.model_copy(update={"objective": ImageModelOptions(objective=kind).objective})
    )


def run(task: ImageModelTask, folder: Path, progress: ProgressFile | None = None, **changes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train_image_model(folder, progress or ProgressFile(folder.parent / "progress"), task=task, device="cpu", **changes)


@pytest.mark.parametrize("kind", OBJECTIVE_NAMES)
def test_a_model_is_written_with_its_history_and_pictures_and_read_again(
    task: ImageModelTask, tmp_path: Path, kind: str
) -> None:
    run(with_objective(task, kind), tmp_path / "unit")
    model, record = read_image_model(tmp_path / "unit")
    assert record.objective.kind == model.objective.kind == kind
    assert record.patients == {"source": ("p0", "p1", "p2")}
    assert record.scans == 3
    rows = (tmp_path / "unit" / "history.csv").read_text().splitlines()
    assert rows[0].startswith("step,loss,rate")
    assert len(rows) == 5
    pictures = load_tensors(tmp_path / "unit" / PICTURES)
    assert pictures["original"].shape == pictures["shown"].shape == pictures["reconstructed"].shape == (3, 16, 16)
    image, _ = task.scans[1].patch(np.array([-1, -1, -1]), (16, 16, 16))
    torch.testing.assert_close(pictures["original"][1], image[0, :, :, 8])
    if model.through_bottleneck:  # the others reconstruct what is corrupted
        torch.testing.assert_close(pictures["reconstructed"][1], model(image[None])[0, 0, :, :, 8])
    corrupted = not torch.equal(pictures["original"], pictures["shown"])
    assert corrupted == (kind in {"denoising", "masked"})
    assert ("traversal" in pictures) == (kind == "variational")
    if kind == "variational":
        # Three scans differ along two axes; the middle of both walks is their mean.
        assert pictures["traversal"].shape == (2, 5, 16, 16)
        images = [scan.patch(np.array([-1, -1, -1]), (16, 16, 16))[0][None] for scan in task.scans]
        mean = torch.stack([model.code(own) for own in images]).mean(0)
        for walk in pictures["traversal"]:
            torch.testing.assert_close(walk[2], model.decode(mean, images[0])[0, 0, :, :, 8])
        torch.testing.assert_close(pictures["interpolation"][0], pictures["reconstructed"][0])
        assert not torch.allclose(pictures["traversal"][0][0], pictures["traversal"][0][4])


@pytest.mark.parametrize("kind", ["denoising", "variational"])
def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    task: ImageModelTask, tmp_path: Path, stops_after: Callable[[int], ProgressFile], kind: str
) -> None:
    task = with_objective(task, kind)
    run(task, tmp_path / "whole")
    with pytest.raises(StopRequestedError):
        run(task, tmp_path / "parts", stops_after(2))
    assert not (tmp_path / "parts" / MODEL).exists()
    run(task, tmp_path / "parts")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir() if path.is_file())
    assert names == sorted(path.name for path in (tmp_path / "parts").iterdir() if path.is_file())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_labels_are_never_read(task: ImageModelTask, tmp_path: Path) -> None:
    run(task, tmp_path / "with")
    for scan in task.scans:
        arrays = {name: array.numpy() for name, array in load_tensors(scan.path).items() if name != "label"}
        save_arrays(scan.path, arrays, {"affine": scan.affine.tolist()})
    run(replace(task, patients={"source": {s.patient: [CachedImage.of(s)] for s in task.scans}}), tmp_path / "without")
    assert (tmp_path / "with" / MODEL).read_bytes() == (tmp_path / "without" / MODEL).read_bytes()


def test_the_foreground_is_the_mask_of_the_scan(make_case: MakeCase) -> None:
    case = make_case("masked", 8)
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5, 3:6, 1:4] = 1
    arrays = {"image": case.image().numpy(), "label": np.ones((8, 8, 8), np.int16), "mask": mask}
    save_arrays(case.folder / ARRAYS, arrays, {"affine": case.affine.tolist(), "scan": [[0, 8], [0, 8], [2, 8]]})
    _, codes = CachedImage.of(CachedCase("masked", "p", case.folder, {"a": (1,)})).patch(
        np.array([-1, 0, 0]), (10, 8, 8)
    )
    assert set(codes.unique().tolist()) == {-1, 0, FOREGROUND}
    assert (codes[0] == -1).all()
    assert (codes[1:9, :, :2] == -1).all()
    assert torch.equal(codes[1:9, :, 2:] == FOREGROUND, torch.from_numpy(mask[:, :, 2:] > 0))


def test_a_model_goes_on_from_a_source_network(task: ImageModelTask, tmp_path: Path) -> None:
    # One output as the image has one channel: that of a segmentation stands for something else all the same.
    source = build_network(NETWORK, 1, 1, 9).state_dict()
    save_tensors(tmp_path / "snapshot.safetensors", source)
    still = task.options.model_copy(update={"steps": 1, "peak_rate": 1e-12, "floor_rate": 0.0})
    run(replace(task, options=still, start=tmp_path / "snapshot.safetensors"), tmp_path / "unit")
    model, record = read_image_model(tmp_path / "unit")
    own = model.network.state_dict()
    assert set(record.started_anew) == {"head.conv.weight", "head.conv.bias"}
    assert record.from_source
    for name, weight in source.items():
        assert torch.allclose(own[name], weight, atol=1e-9) == (name != "head.conv.weight"), name


def test_the_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(
    task: ImageModelTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))
    plain = CachedImage.patch

    def patch(self: CachedImage, start, size):
        image, codes = plain(self, start, size)
        return (image * float("nan") if next(calls) == 2 else image), codes

    monkeypatch.setattr(CachedImage, "patch", patch)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2 \(cases c\d\)"):
        run(task, tmp_path / "unit")
    state = load_tensors(tmp_path / "unit" / "checkpoint.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_weights_that_do_not_fit_the_record_are_refused(task: ImageModelTask, tmp_path: Path) -> None:
    run(task, tmp_path / "unit")
    other = with_objective(task, "variational")
    run(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / MODEL, tmp_path / "unit" / MODEL)
    with pytest.raises(WorkspaceError, match="do not fit the model"):
        read_image_model(tmp_path / "unit")


def test_what_is_to_be_reconstructed_is_not_blurred_or_noisy() -> None:
    images = of_images(AugmentationOptions())
    assert (images.noise, images.blur, images.low_resolution) == (0, 0, 0)
    assert images.affine == AugmentationOptions().affine


def test_an_objective_is_its_name_or_its_settings() -> None:
    assert ImageModelOptions.model_validate({"objective": "variational"}).objective == Variational()
    options = ImageModelOptions.model_validate({"objective": {"kind": "denoising", "noise_level": 1}})
    assert options.objective == Denoising(noise_level=1)
    with pytest.raises(ValueError, match="hidden_share"):
        ImageModelOptions.model_validate({"objective": {"kind": "denoising", "hidden_share": 0.5}})
