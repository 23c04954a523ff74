"""A training that is stopped, killed or moved resumes from its checkpoint and ends with the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.errors import TrainingError
from data.splits import BootstrapSample
from models.networks.monai_networks import SegResNetOptions
from pipeline.execution.progress import STOP, ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.storage.tensors import load_tensors
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.checkpoint import CHECKPOINT, Checkpoints, TrainingState
from pipeline.training.computing import ComputingOptions, Precision
from pipeline.training.loop import Resumption, StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.source_network import INITIAL, SourceTask, snapshot_name, train_source_network
from pipeline.training.source_options import SourceTrainingOptions


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


class StopsAfter(ProgressFile):
    """A command that is asked to stop after some steps."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path, saves=True)
        self._left = steps

    @property
    def stop_requested(self) -> bool:
        self._left -= 1
        return self._left <= 0


def run(task: SourceTask, folder: Path, steps: int = 1000, **settings) -> None:
    folder.mkdir(exist_ok=True)
    train_source_network(folder, StopsAfter(folder.parent / "progress", steps), task=task, device="cpu", **settings)


def contents(folder: Path) -> dict[str, bytes]:
    """What is a function of the seed; the speed is not."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "speed.jsonl")
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_stopped_training_ends_with_the_same_bytes(task: SourceTask, tmp_path: Path) -> None:
    run(task, tmp_path / "whole")
    # Stopped in each cycle: before and after the first snapshot.
    for steps in (3, 3):
        with pytest.raises(StopRequestedError):
            run(task, tmp_path / "stopped", steps)
        assert (tmp_path / "stopped" / CHECKPOINT).exists()
    run(task, tmp_path / "stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert not (tmp_path / "whole" / CHECKPOINT).exists()


def test_a_stopped_branch_ends_with_the_same_bytes(task: SourceTask, tmp_path: Path) -> None:
    run(task, tmp_path / "trunk")
    branch = replace(task, trunk=tmp_path / "trunk" / snapshot_name(1), seed=2)
    run(branch, tmp_path / "whole")
    with pytest.raises(StopRequestedError):
        run(branch, tmp_path / "stopped", 3)
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


def test_a_training_is_saved_by_steps_and_by_time(tmp_path: Path) -> None:
    state = TrainingState({}, torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
    by_steps = Checkpoints(tmp_path, every_steps=3, every_seconds=0)
    for step, written in ((1, False), (2, False), (3, True)):
        by_steps.after_step(step, state)
        assert by_steps.path.exists() == written
    by_steps.remove()
    by_time = Checkpoints(tmp_path, every_steps=0, every_seconds=1e-9)
    by_time.after_step(1, state)
    assert by_time.path.exists()
    by_time.remove()
    Checkpoints(tmp_path, every_steps=0, every_seconds=1e9).after_step(1, state)
    assert not by_time.path.exists()


def test_a_process_that_does_not_write_leaves_nothing(tmp_path: Path) -> None:
    state = TrainingState({}, torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
    Checkpoints(tmp_path, every_steps=1, writes=False).after_step(1, state)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_as_none(tmp_path: Path) -> None:
    state = TrainingState({}, torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.path.write_bytes(b"half a file")
    assert checkpoints.restore(state) == 0


def test_the_last_good_checkpoint_stays_when_the_loss_is_not_finite(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1, bias=False)

    def step_loss(step: int) -> StepLoss:
        return StepLoss(network.weight.sum() * (float("nan") if step == 3 else 1), cases=["a"])

    resumption = Resumption({"network": network}, Checkpoints(tmp_path, every_steps=1))
    groups = [{"params": list(network.parameters())}]
    with pytest.raises(TrainingError, match="at step 3"):
        train(groups, step_loss, TrainingPlan(9, lambda step: 0.1), resumption=resumption)
    good = network.weight.detach().clone()
    torch.nn.init.zeros_(network.weight)
    state = TrainingState({"network": network}, torch.optim.AdamW(network.parameters()))
    assert Checkpoints(tmp_path).restore(state) == 3
    assert torch.equal(network.weight, good)


def test_bfloat16_trains_and_keeps_float32_weights(task: SourceTask, tmp_path: Path) -> None:
    from dataclasses import replace

    from pipeline.storage.tensors import load_tensors

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
