"""How long a training step takes on this machine: a few real ones are timed, on noise."""

from __future__ import annotations

import statistics
import time

import torch

from models.deep_supervision import DeepSupervisionLoss
from models.objectives import SegmentationLoss
from pipeline.training.computing import Computing
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions

_STEPS = 3
_WARM_UP = 1


def seconds_per_step(
    model: torch.nn.Module, computing: Computing, channels: int, classes: int, patches: PatchOptions
) -> float:
    """Times steps: forward, backward and optimiser.

    Args:
        model: a network, placed by `computing`; its weights change.
        computing: device and precision.
        channels: of the images.
        classes: channels of the network's output.
        patches: size and number in a step.
    """
    loss = DeepSupervisionLoss(SegmentationLoss())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(patches.batch, channels, *patches.size, generator=generator)
    labels = torch.randint(0, classes, (patches.batch, *patches.size), generator=generator)
    ends: list[float] = []

    def step(_number: int) -> StepLoss:
        ends.append(now(computing))
        with computing.autocast():
            outputs = model(computing.images(images))
        return StepLoss(loss(outputs, labels.to(computing.device)))

    plan = TrainingPlan(_WARM_UP + _STEPS, lambda _: 1e-4)
    train([{"params": list(model.parameters())}], step, plan, computing=computing)
    ends.append(now(computing))
    return statistics.median(b - a for a, b in zip(ends[_WARM_UP:], ends[_WARM_UP + 1 :], strict=False))


def now(computing: Computing) -> float:
    """Seconds on a clock, once the device has done all that it was given."""
    if computing.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
