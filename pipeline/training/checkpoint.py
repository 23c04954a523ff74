"""Checkpoints of a training, from which it resumes to the same bytes as without interruption.

Batches, augmentation and dropout are functions of (seed, step), so only weights, optimiser, gradient scaler and the
number of steps done are saved; the log is truncated to that number. Safetensors and JSON; nothing is unpickled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.errors import WorkspaceError
from pipeline.execution.stopping import StopRequestedError
from pipeline.storage.tensors import load_about, load_tensors, save_tensors

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
_OPTIMISER, _MODULE = "optimiser", "module"


@dataclass
class TrainingState:
    """The state of a training: its modules by name, the optimiser, and the scaler of float16 gradients, if any."""

    modules: Mapping[str, torch.nn.Module]
    optimiser: torch.optim.Optimizer
    scaler: Any = None


@dataclass(frozen=True)
class Checkpoints:
    """When and where a training saves.

    Attributes:
        folder: holds the checkpoint.
        every_steps: steps between checkpoints; 0 for none by steps.
        every_seconds: time between checkpoints; 0 for none by time.
        stop_requested: called after each step; if true, the training saves and stops.
        writes: whether this process writes (one of several that train together does).
    """

    folder: Path
    every_steps: int = 0
    every_seconds: float = 0
    stop_requested: Callable[[], bool] = lambda: False
    writes: bool = True
    _saved: list[float] = field(default_factory=lambda: [time.monotonic()])

    @property
    def path(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / CHECKPOINT

    def restore(self, state: TrainingState) -> int:
        """Loads the last checkpoint into the state.

        Returns:
            The number of steps done; 0 without a usable checkpoint.
        """
        if not self.path.is_file():
            return 0
        try:
            about, tensors = load_about(self.path), load_tensors(self.path)
        except WorkspaceError as error:
            logger.warning("the training starts over, because its checkpoint is not usable: %s", error)
            return 0
        for name, module in state.modules.items():
            start = f"{_MODULE}.{name}."
            module.load_state_dict({k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)})
        own = state.optimiser.state_dict()
        moments: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == _OPTIMISER:
                number, _, name = rest.partition(".")
                moments.setdefault(int(number), {})[name] = tensor
        state.optimiser.load_state_dict({"state": moments, "param_groups": own["param_groups"]})
        if state.scaler is not None and about["scaler"]:
            state.scaler.load_state_dict(about["scaler"])
        return int(about["step"])

    def save(self, step: int, state: TrainingState) -> None:
        """Writes a checkpoint after `step` steps, atomically."""
        tensors = {
            f"{_MODULE}.{name}.{key}": value
            for name, module in state.modules.items()
            for key, value in module.state_dict().items()
        }
        for number, moments in state.optimiser.state_dict()["state"].items():
            tensors |= {f"{_OPTIMISER}.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        scaler = state.scaler.state_dict() if state.scaler is not None else {}
        save_tensors(self.path, tensors, {"step": step, "scaler": scaler})
        self._saved[0] = time.monotonic()

    def after_step(self, step: int, state: TrainingState, before_saving: Callable[[], None] = lambda: None) -> None:
        """Saves when a checkpoint is due or the training is to stop.

        Args:
            step: steps done.
            state: the training's.
            before_saving: writes to disk what a resumed training needs besides the checkpoint.

        Raises:
            StopRequestedError: after saving, because the command was asked to stop.
        """
        stop = self.stop_requested()
        due = self.every_steps and step % self.every_steps == 0
        late = self.every_seconds and time.monotonic() - self._saved[0] >= self.every_seconds
        if self.writes and (stop or due or late):
            before_saving()
            self.save(step, state)
        if stop:
            raise StopRequestedError(f"stopped on request after step {step}")

    def remove(self) -> None:
        """Removes the checkpoint of a finished training."""
        if self.writes:
            self.path.unlink(missing_ok=True)
