"""How fast this machine is: a few real training steps and one prediction of a scan by a sliding window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.torch_threads import torch_threads
from models.networks.factory import NetworkOptions, build_network
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits
from pipeline.training.computing import Computing, ComputingOptions
from pipeline.training.patches import PatchOptions
from pipeline.training.step_time import now, seconds_per_step


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
        seconds = seconds_per_step(model, computing, channels, classes, patches)
        model.eval()
        start = now(computing)

        def forward(windows: torch.Tensor) -> torch.Tensor:
            with computing.autocast():
                logits: torch.Tensor = model(windows)
            return logits.float()

        predict_logits(forward, computing.images(torch.randn(channels, *scan)), patches.size, window)
        return Speed(seconds, now(computing) - start)
