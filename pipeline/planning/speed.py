"""How fast this machine is: a few real training steps and one prediction of a scan by a sliding window."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.torch_threads import torch_threads
from models.deep_supervision import DeepSupervisionLoss
from models.networks.factory import NetworkOptions, build_network
from models.objectives import SegmentationLoss
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits
from pipeline.training.computing import Computing, ComputingOptions
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions

_STEPS = 3
_WARM_UP = 1


@dataclass(frozen=True)
class Speed:
    """Seconds of one unit of work.

    Attributes:
        step: of a training step.
        prediction: of one pass over a scan.
    """

    step: float
    prediction: float

    def for_voxels(self, share: float, share_of_scan: float) -> Speed:
        """The speed with so many times the voxels in a step and in a scan."""
        return Speed(self.step * share, self.prediction * share_of_scan)


def assumed_speed(steps_per_second: float, patches: PatchOptions, scan: Sequence[int]) -> Speed:
    """The speed that a given number of training steps in a second stands for: a pass costs a third of a step."""
    step = 1 / steps_per_second
    windows = math.prod(scan) / (patches.batch * math.prod(patches.size))
    return Speed(step, max(windows, 1 / patches.batch) * step / 3)


def measure_speed(
    network: NetworkOptions,
    channels: int,
    classes: int,
    patches: PatchOptions,
    scan: Sequence[int],
    window: SlidingWindowOptions,
    device: str,
    threads: int,
) -> Speed:
    """Times real steps, forward, backward and optimiser, and one prediction.

    Args:
        network: which network.
        channels: of the images.
        classes: background included.
        patches: size and number in a step.
        scan: voxels of a scan.
        window: how a scan is cut into windows.
        device: `cpu` or `cuda`.
        threads: of each training.
    """
    with torch_threads(threads):
        computing = Computing(ComputingOptions(), device)
        model = computing.place(build_network(network, channels, classes))
        loss = DeepSupervisionLoss(SegmentationLoss())
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(patches.batch, channels, *patches.size, generator=generator)
        labels = torch.randint(0, classes, (patches.batch, *patches.size), generator=generator)
        ends: list[float] = []

        def step(_number: int) -> StepLoss:
            ends.append(_now(device))
            with computing.autocast():
                logits = model(computing.images(images))
            return StepLoss(loss(logits.float(), labels.to(computing.device)))

        train([{"params": list(model.parameters())}], step, TrainingPlan(_WARM_UP + _STEPS, lambda _: 1e-4))
        ends.append(_now(device))
        seconds = statistics.median(b - a for a, b in zip(ends[_WARM_UP:], ends[_WARM_UP + 1 :], strict=False))
        model.eval()
        start = _now(device)

        def forward(windows: torch.Tensor) -> torch.Tensor:
            with computing.autocast():
                logits: torch.Tensor = model(windows)
            return logits.float()

        predict_logits(forward, computing.images(torch.randn(channels, *scan)), patches.size, window)
        return Speed(seconds, _now(device) - start)


def _now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
