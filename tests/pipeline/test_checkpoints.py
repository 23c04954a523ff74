"""A training that is stopped, killed or moved resumes from its checkpoint and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.errors import TrainingError
from data.splits import BootstrapSample
from models.networks.monai_networks import SegResNetOptions
from pipeline.execution.progress import STOP, ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.storage.tensors import load_about, load_tensors, save_tensors
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.checkpoint import CHECKPOINT, Checkpoints, Resumption
from pipeline.training.computing import ComputingOptions, Precision
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.source_network import INITIAL, SourceTask, snapshot_name, train_source_network
from pipeline.training.source_options import SourceTrainingOptions

StopsAfter = Callable[[int], ProgressFile]


@pytest.fixture
def task(make_case) -> SourceTask:
    """A training with everything that is random: patches, augmentation and dropout."""
    cases = [make_case("a"), make_case("b", corner=(7, 3, 8))]
    return SourceTask(
        number=0,
        seed=1,
        sample=BootstrapSample(("a", "a"), ("b",)),
        drawn=[[cases[0]], [cases[0]]],
        out_of_bag=[cases[1]],
        network=SegResNetOptions(initial_channels=8, encoder_blocks=(1, 1), decoder_blocks=(1,), dropout=0.2),
        options=SourceTrainingOptions(networks=1, cycles=2, steps_per_cycle=4, warm_up=1, validation_cases=1),
        patches=PatchOptions(size=(8, 8, 8)),
        augmentation=AugmentationOptions(affine=0.5, noise=1.0),
        computing=ComputingOptions(precision=Precision.FLOAT32),
    )


def run(task: SourceTask, folder: Path, progress: ProgressFile | None = None, **settings) -> None:
    folder.mkdir(exist_ok=True)
    never = ProgressFile(folder.parent / "progress", saves=True)
    train_source_network(folder, progress or never, task=task, device="cpu", **settings)


def contents(folder: Path) -> dict[str, bytes]:
    """What is a function of the seed; the speed is not."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "speed.jsonl")
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_stopped_training_ends_with_the_same_bytes(task: SourceTask, stops_after: StopsAfter, tmp_path: Path) -> None:
    run(task, tmp_path / "whole")
    # Stopped in each cycle: before and after the first snapshot.
    for steps in (3, 3):
        with pytest.raises(StopRequestedError):
            run(task, tmp_path / "stopped", stops_after(steps))
        assert (tmp_path / "stopped" / CHECKPOINT).exists()
    run(task, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert not (tmp_path / "whole" / CHECKPOINT).exists()


def test_a_stopped_branch_ends_with_the_same_bytes(task: SourceTask, stops_after: StopsAfter, tmp_path: Path) -> None:
    run(task, tmp_path / "trunk")
    branch = replace(task, trunk=tmp_path / "trunk" / snapshot_name(1), seed=2)
    run(branch, tmp_path / "whole")
    with pytest.raises(StopRequestedError):
        run(branch, tmp_path / "stopped", stops_after(3))
    run(branch, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert load_tensors(tmp_path / "stopped" / INITIAL).keys() == load_tensors(branch.trunk).keys()


def test_checkpoints_and_background_workers_change_nothing(task: SourceTask, tmp_path: Path) -> None:
    run(task, tmp_path / "plain", checkpoint_steps=0, checkpoint_seconds=0)
    run(task, tmp_path / "other", checkpoint_steps=1, workers=1)
    assert contents(tmp_path / "plain") == contents(tmp_path / "other")


def test_dropout_is_a_function_of_seed_and_step(task: SourceTask, tmp_path: Path) -> None:
    torch.manual_seed(5)
    run(task, tmp_path / "a")
    torch.manual_seed(6)
    run(task, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def weight_and_optimiser() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    """A weight that an optimiser has moved once."""
    network = torch.nn.Linear(2, 1, bias=False)
    optimiser = torch.optim.AdamW(network.parameters())
    network.weight.sum().backward()
    optimiser.step()
    return network, optimiser


def test_a_training_is_saved_by_steps_and_by_time(tmp_path: Path) -> None:
    network, optimiser = weight_and_optimiser()

    def saving(**when) -> Resumption:
        return Resumption(Checkpoints(tmp_path, **when), {"network": network})

    path = Checkpoints(tmp_path).path
    by_steps = saving(every_steps=3)
    for step, written in ((1, False), (2, False), (3, True)):
        by_steps.after_step(step, optimiser)
        assert path.exists() == written
    assert saving().steps_done == 3
    path.unlink()
    saving(every_seconds=1e-9).after_step(1, optimiser)
    assert path.exists()
    path.unlink()
    saving(every_seconds=1e9).after_step(1, optimiser)
    assert not path.exists()


def test_a_process_that_does_not_write_leaves_nothing(tmp_path: Path) -> None:
    network, optimiser = weight_and_optimiser()
    Resumption(Checkpoints(tmp_path, every_steps=1, writes=False), {"network": network}).after_step(1, optimiser)
    assert not list(tmp_path.iterdir())


def test_all_that_steps_change_is_restored(tmp_path: Path) -> None:
    network, optimiser = weight_and_optimiser()
    network.register_buffer("scale", torch.tensor([3.0]), persistent=False)
    stream = torch.Generator().manual_seed(5)
    torch.rand(2, generator=stream)
    Resumption(Checkpoints(tmp_path, every_steps=1), {"network": network}, {"draws": stream}).after_step(4, optimiser)
    weight, following = network.weight.detach().clone(), torch.rand(2, generator=stream)
    other, fresh = weight_and_optimiser()
    other.register_buffer("scale", torch.tensor([1.0]), persistent=False)
    stream.manual_seed(6)
    restored = Resumption(Checkpoints(tmp_path), {"network": other}, {"draws": stream})
    assert restored.steps_done == 4
    assert torch.equal(other.weight, weight)
    assert other.scale.item() == 3
    assert torch.equal(torch.rand(2, generator=stream), following)
    # Of a training with rounds, the optimiser is that of the round in which it was saved.
    assert restored.begin_round(4, fresh) == restored.begin_round(8, fresh) == 0
    fresh.state.clear()
    assert restored.begin_round(3, fresh) == 1
    for name, value in optimiser.state[network.weight].items():
        assert torch.equal(fresh.state[other.weight][name], value)


@pytest.mark.parametrize("change", ["damaged", "shape", "dtype", "name", "stream", "moment", "description"])
def test_a_checkpoint_that_does_not_fit_is_as_none(tmp_path: Path, caplog, change: str) -> None:
    network, optimiser = weight_and_optimiser()
    stream = torch.Generator()
    Resumption(Checkpoints(tmp_path, every_steps=1), {"network": network}, {"draws": stream}).after_step(4, optimiser)
    path = Checkpoints(tmp_path).path
    about, saved = load_about(path), load_tensors(path)
    weight, moment = "module.network.weight", "optimiser.module.network.weight.exp_avg"
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        saved[weight] = {"shape": torch.ones(1, 3), "dtype": torch.ones(1, 2).double()}.get(change, saved[weight])
        if change == "name":
            saved["module.network.bias"] = saved[weight]
        if change == "stream":
            del saved["stream.draws"]
        if change == "moment":
            saved[moment] = torch.ones(3)
        save_tensors(path, saved, {} if change == "description" else about)
    torch.nn.init.ones_(network.weight)
    assert Resumption(Checkpoints(tmp_path), {"network": network}, {"draws": stream}).steps_done == 0
    assert network.weight.tolist() == [[1.0, 1.0]]
    assert "the training starts over" in caplog.text
    assert str(path) in caplog.text


@pytest.mark.parametrize("every_steps", [0, 1])
def test_the_last_good_state_is_kept_when_the_loss_is_not_finite(tmp_path: Path, every_steps: int) -> None:
    network = torch.nn.Linear(1, 1, bias=False)

    def step_loss(step: int) -> StepLoss:
        return StepLoss(network.weight.sum() * (float("nan") if step == 3 else 1), cases=["a"])

    resumption = Resumption(Checkpoints(tmp_path, every_steps=every_steps), {"network": network})
    groups = [{"params": list(network.parameters())}]
    with pytest.raises(TrainingError, match="at step 3"):
        train(groups, step_loss, TrainingPlan(9, lambda step: 0.1), resumption=resumption)
    good = network.weight.detach().clone()
    torch.nn.init.zeros_(network.weight)
    assert Resumption(Checkpoints(tmp_path), {"network": network}).steps_done == 3
    assert torch.equal(network.weight, good)


def test_bfloat16_trains_and_keeps_float32_weights(task: SourceTask, tmp_path: Path) -> None:
    run(replace(task, computing=ComputingOptions(precision=Precision.BFLOAT16)), tmp_path / "half")
    run(task, tmp_path / "full")
    half, full = (load_tensors(tmp_path / name / "snapshot-01.safetensors") for name in ("half", "full"))
    assert {value.dtype for value in half.values()} == {torch.float32}
    assert any(not torch.equal(half[name], full[name]) for name in full)


def test_batches_drawn_ahead_are_the_batches(task: SourceTask) -> None:
    from pipeline.training.augmentation import Augmentation

    sampler = PatchSampler(task.drawn, task.patches, Augmentation(task.augmentation), 3)
    ahead = BackgroundSampler(sampler, 6, workers=2)
    assert ahead.voxels == sampler.voxels
    # In order, and again from somewhere else, as after a resume.
    for step in (0, 1, 2, 5, 4):
        images, labels, names = ahead.batch(step)
        expected = sampler.batch(step)
        assert torch.equal(images, expected[0])
        assert torch.equal(labels, expected[1])
        assert names == expected[2]


def test_processes_share_a_batch(task: SourceTask) -> None:
    from pipeline.training.augmentation import Augmentation

    augmentation = Augmentation(task.augmentation)
    options = PatchOptions(size=(8, 8, 8), batch=4)
    whole = PatchSampler(task.drawn, options, augmentation, 3).batch(2)[0]
    parts = [PatchSampler(task.drawn, options, augmentation, 3, number, 2).batch(2)[0] for number in (0, 1)]
    assert torch.equal(torch.cat(parts), whole[[0, 2, 1, 3]])


def test_the_wish_to_stop_reaches_a_unit_by_its_file(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path / "unit")
    progress(0.1)
    (tmp_path / STOP).touch()
    fresh = ProgressFile(tmp_path / "unit")
    assert fresh.stop_requested
    with pytest.raises(StopRequestedError):
        fresh(0.2)
    ProgressFile(tmp_path / "unit", saves=True)(0.2)
