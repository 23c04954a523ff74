"""Training a source network on a bootstrap sample in cosine cycles, with a snapshot at the end of each cycle.

Networks that start at random have permuted channels: the filters at one position of two of them have nothing to do
with each other. Where they branch from a common trunk, channels keep their meaning (networks that go on from one
point, after a part of a training, stay in one linearly connected region: Frankle et al., "Linear mode connectivity and
the lottery ticket hypothesis", ICML 2020), so mean and spread of the branches at each position say what patients have
in common there and in what they differ.

The trunk trains on a bootstrap sample like every other network, and not on all patients: who was seen by the trunk is
not out of bag for any branch, and so somebody is left for each, about one patient in seven, on whom its Dice can be
measured. The branches see the other patients all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from data.random_streams import stream_seed
from data.splits import BootstrapSample
from models.deep_supervision import DeepSupervisionLoss
from models.heads import IGNORED
from models.networks.factory import NetworkOptions, build_network
from models.objectives import SegmentationLoss
from pipeline.execution.processes import rank, world_size
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.storage.atomic import write_record
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import SAMPLE
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.checkpoint import Checkpoints, Resumption
from pipeline.training.computing import Computing, ComputingOptions
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.sample_record import SampleRecord
from pipeline.training.schedule import cosine_cycles
from pipeline.training.source_options import SourceTrainingOptions
from pipeline.training.source_translation import TranslationInputs
from pipeline.training.tracking import TrackingOptions, open_trackers
from pipeline.training.training_log import SpeedMeter, TrainingLog
from pipeline.training.validation import mean_dice

_SPEED_EVERY = 50
INITIAL = "initial.safetensors"
TRUNK = "trunk"
"""Stands for the number of the network that others branch from."""


def network_key(number: int) -> str:
    """Key of a source network's unit."""
    return f"network-{number:02d}"


def snapshot_name(cycle: int) -> str:
    """File name of the weights at the end of a cycle (from 0)."""
    return f"snapshot-{cycle:02d}.safetensors"


@dataclass(frozen=True)
class SourceTask:
    """The inputs of a source network's training.

    Attributes:
        number: of the network, from 0 to B − 1, or `TRUNK`.
        seed: of the study.
        sample: names of the drawn and the out-of-bag patients.
        drawn: cases of each drawn patient, with repetition.
        out_of_bag: cases to validate on.
        network: options of the network.
        options: of the training.
        patches: of the sampler.
        augmentation: of the patches.
        computing: precision and the like.
        trunk: weights that the network starts from; by default it starts at random.
        translation: of the patches; by default they stay as they are.
    """

    number: int | str
    seed: int
    sample: BootstrapSample
    drawn: Sequence[Sequence[CachedCase]]
    out_of_bag: Sequence[CachedCase]
    network: NetworkOptions
    options: SourceTrainingOptions
    patches: PatchOptions
    augmentation: AugmentationOptions
    computing: ComputingOptions
    trunk: Path | None = None
    translation: TranslationInputs | None = None

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.options.cycles * self.options.steps_per_cycle

    @property
    def validated_on(self) -> Sequence[CachedCase]:
        """The out-of-bag cases that are measured at the end of each cycle."""
        return list(self.out_of_bag)[: self.options.validation_cases]

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return cosine_cycles(
            step,
            cycle=self.options.steps_per_cycle,
            peak=self.options.peak_rate,
            floor=self.options.floor_rate,
            warm_up=self.options.warm_up,
        )

    def ends_cycle(self, step: int) -> bool:
        """Whether a cycle ends with this step."""
        return (step + 1) % self.options.steps_per_cycle == 0


def train_source_network(
    folder: Path,
    progress: ProgressFile,
    *,
    task: SourceTask,
    device: str,
    workers: int = 0,
    tracking: TrackingOptions | None = None,
    checkpoint_steps: int = 0,
    checkpoint_seconds: float = 0,
) -> None:
    """Trains a network and writes its snapshots, history and bootstrap sample; resumes from a checkpoint in the folder.

    `workers` background processes draw the batches.

    Raises:
        TrainingError: the loss is not finite.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    computing = Computing(task.computing, device)
    seed = stream_seed(task.seed, "source-network", task.number)
    first = task.drawn[0][0]
    network = build_network(task.network, first.channels, first.heads.outputs(len(first.classes)), seed)
    if task.trunk is not None or task.translation is not None:
        # Of processes that train together, the first one has just moved trunk and translation to their places.
        computing.wait()
    if task.trunk is not None:
        network.load_state_dict(load_tensors(task.trunk))
    model = computing.place(network)
    if computing.is_main:
        save_tensors(folder / INITIAL, model.state_dict(), {"network": task.number})

    checkpoints = Checkpoints(
        folder, checkpoint_steps, checkpoint_seconds, lambda: progress.stop_requested, computing.is_main
    )
    # No process reads the checkpoint before the writing process has made the folder.
    computing.wait()
    resumption = Resumption(checkpoints, {"network": model})
    done = resumption.steps_done
    # Of processes that train together, only the first writes.
    trackers = open_trackers(tracking or TrackingOptions(), folder) if computing.is_main else []
    log = TrainingLog(folder, trackers, start=done) if computing.is_main else None
    speed = SpeedMeter(task.patches.batch, task.steps, done)

    def after_step(step: int, row: dict[str, float]) -> None:
        progress((step + 1) / task.steps)
        if task.ends_cycle(step) and computing.is_main:
            _end_cycle(folder, task, step, model, row, str(computing.device))
        if log and ((step + 1) % _SPEED_EVERY == 0 or task.ends_cycle(step)):
            log.write_speed(step + 1, *speed.measure(step + 1))

    with log or nullcontext():
        train(
            [{"params": list(model.parameters())}],
            _step_loss(task, computing.wrap(model), computing, workers),
            TrainingPlan(task.steps, task.rate, task.options.optimiser, seed, keep=task.ends_cycle),
            after_step=after_step,
            computing=computing,
            history=log,
            resumption=resumption,
        )
    if log:
        log.finish()
        _write_sample(folder, task)
        checkpoints.remove()


def _step_loss(
    task: SourceTask, network: torch.nn.Module, computing: Computing, workers: int
) -> Callable[[int], StepLoss]:
    """Makes the loss of a step; the samplers of processes that train together share each batch."""
    data_loss = DeepSupervisionLoss(SegmentationLoss(task.options.likelihood, task.drawn[0][0].heads))
    patches = PatchSampler(
        task.drawn,
        task.patches,
        Augmentation(task.augmentation),
        stream_seed(task.seed, "source-patches", task.number),
        rank(),
        world_size(),
        None if task.translation is None else task.translation.open(),
    )
    sampler = BackgroundSampler(patches, task.steps, workers)

    def step_loss(step: int) -> StepLoss:
        network.train()
        images, labels, names = sampler.batch(step)
        with computing.autocast():
            outputs = network(computing.images(images))
        labels = labels.to(computing.device)
        share = computing.share_of_mean((labels != IGNORED).sum())
        return StepLoss(data_loss(outputs, labels) * share, cases=names)

    return step_loss


def _end_cycle(
    folder: Path, task: SourceTask, step: int, model: torch.nn.Module, row: dict[str, float], device: str
) -> None:
    """Writes the snapshot at the end of a cycle, and measures it on out-of-bag cases."""
    cycle = step // task.options.steps_per_cycle
    save_tensors(folder / snapshot_name(cycle), model.state_dict(), {"network": task.number, "cycle": cycle})
    if task.validated_on:
        model.eval()
        row["out_of_bag_dice"] = mean_dice(model, task.validated_on, task.patches.size, SlidingWindowOptions(), device)


def _write_sample(folder: Path, task: SourceTask) -> None:
    names = [case.name for case in task.validated_on]
    sample = SampleRecord(drawn=task.sample.drawn, out_of_bag=task.sample.out_of_bag, validated_on=tuple(names))
    write_record(folder / SAMPLE, sample)
