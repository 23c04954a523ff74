"""How long trainings would take that nothing is known of: a few of their steps are timed on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data.torch_threads import torch_threads
from models.networks.factory import NetworkOptions, build_network, without_deep_supervision
from pipeline.arms.training_unit import TrainingTask
from pipeline.execution.unit import Unit
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.digest import digest
from pipeline.training.computing import Computing, ComputingOptions
from pipeline.training.image_model_training import ImageModelTask
from pipeline.training.patches import PatchOptions
from pipeline.training.source_network import SourceTask
from pipeline.training.step_time import seconds_per_step


@dataclass(frozen=True)
class _Training:
    """What the duration of a training depends on; `steps` of an arm count each draw and each component."""

    network: NetworkOptions
    channels: int
    outputs: int
    patches: PatchOptions
    computing: ComputingOptions
    device: str
    steps: float

    @classmethod
    def on(cls, case: CachedCase, network: NetworkOptions, *about: Any) -> _Training:
        """The training of a network for the channels and classes of a case."""
        return cls(network, case.channels, case.heads.outputs(len(case.classes)), *about)

    @property
    def of_a_step(self) -> str:
        """Digest of what a step depends on."""
        options = [own.model_dump(mode="json") for own in (self.network, self.patches, self.computing)]
        return digest([*options, self.channels, self.outputs, self.device])


def _training(unit: Unit) -> _Training | None:
    """The training of a unit; `None` if it trains nothing, such as a network that is taken from a pack."""
    task = unit.arguments.get("task")
    if isinstance(task, SourceTask):
        device = unit.arguments["device"]
        return _Training.on(task.drawn[0][0], task.network, task.patches, task.computing, device, task.steps)
    if isinstance(task, ImageModelTask):
        # Of the objectives, some take twice the time of a segmentation network's step; what it says is a first guess.
        network, device = without_deep_supervision(task.network), unit.arguments["device"]
        return _Training.on(task.scans[0], network, task.patches, task.computing, device, task.options.steps)
    if isinstance(task, TrainingTask):
        own = unit.arguments["settings"]
        network = without_deep_supervision(task.network.options)
        shapes, steps = (task.network.channels, task.network.outputs), own.options.steps * unit.size
        return _Training(network, *shapes, own.patches, own.computing, own.device, steps if task.learns else 0)
    return None


@dataclass
class TrainingProbe:
    """Times steps, those that are alike once.

    Attributes:
        threads: of each training.
    """

    threads: int
    _timed: dict[str, float] = field(default_factory=dict, init=False)

    def seconds(self, units: Sequence[Unit]) -> float | None:
        """Estimates how long units take, one after another; `None` if they do not train, or not on this machine."""
        trainings = [_training(unit) for unit in units]
        if any(own is None or not _is_here(own.device) for own in trainings):
            return None
        return sum(own.steps * self._step(own) for own in trainings if own is not None and own.steps)

    def _step(self, training: _Training) -> float:
        key = training.of_a_step
        if key not in self._timed:
            with torch_threads(self.threads):
                computing = Computing(training.computing, training.device)
                channels, outputs = training.channels, training.outputs
                network = computing.place(build_network(training.network, channels, outputs))
                self._timed[key] = seconds_per_step(network, computing, channels, outputs, training.patches)
        return self._timed[key]


def _is_here(device: str) -> bool:
    """Whether this machine has the device; a job's GPU may be elsewhere."""
    return torch.device(device).type != "cuda" or torch.cuda.is_available()
