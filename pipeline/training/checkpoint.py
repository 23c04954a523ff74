"""Checkpoints of a training, from which it resumes to the same bytes as without interruption.

Batches, augmentation and dropout are functions of (seed, step), so only what steps change is saved: the tensors of the
modules, the streams of draws, the optimiser, the gradient scaler and the number of steps done; the log is truncated to
that number. Safetensors and JSON; nothing is unpickled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.errors import WorkspaceError
from pipeline.execution.stopping import StopRequestedError
from pipeline.storage.tensors import load_about, load_tensors, save_tensors

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
_MODULE, _STREAM, _OPTIMISER = "module", "stream", "optimiser"


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

    @property
    def path(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / CHECKPOINT

    def remove(self) -> None:
        """Removes the checkpoint of a finished training."""
        if self.writes:
            self.path.unlink(missing_ok=True)


class Resumption:
    """What a training changes, restored from its last checkpoint and saved to further ones.

    A training may have several rounds, each with an optimiser of its own; its steps are counted through all of them,
    and the end of a round is never saved.

    Args:
        checkpoints: when and where to save.
        modules: hold all tensors that steps change; buffers that a state dict leaves out are saved, too.
        streams: generators that steps draw from, by name.

    Attributes:
        steps_done: steps of the checkpoint that was restored; 0 without a usable one.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        modules: Mapping[str, torch.nn.Module],
        streams: Mapping[str, torch.Generator] | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._modules = modules
        self._streams = streams or {}
        self._moments: dict[str, dict[str, Tensor]] = {}
        self._scaler: dict[str, Any] = {}
        self._saved = time.monotonic()
        self.steps_done = self._restore()

    def begin_round(self, earlier: int, optimiser: torch.optim.Optimizer, scaler: Any = None) -> int:
        """Gives a round's optimiser what the checkpoint holds of it.

        Args:
            earlier: steps of the rounds before.
            optimiser: of this round.
            scaler: of float16 gradients, if any.

        Returns:
            The steps of this round that are done.
        """
        done = self.steps_done - earlier
        if done <= 0:
            return 0
        names = self._names()
        order = [names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]]
        moments = {number: self._moments[name] for number, name in enumerate(order) if name in self._moments}
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        if scaler is not None and self._scaler:
            scaler.load_state_dict(self._scaler)
        self._moments = {}
        return done

    def after_step(
        self,
        step: int,
        optimiser: torch.optim.Optimizer,
        scaler: Any = None,
        before_saving: Callable[[], None] = lambda: None,
    ) -> None:
        """Saves when a checkpoint is due or the training is to stop.

        Args:
            step: steps done, those of earlier rounds included.
            optimiser: of the round.
            scaler: of float16 gradients, if any.
            before_saving: writes to disk what a resumed training needs besides the checkpoint.

        Raises:
            StopRequestedError: after saving, because the command was asked to stop.
        """
        own = self._checkpoints
        stop = own.stop_requested()
        due = own.every_steps and step % own.every_steps == 0
        late = own.every_seconds and time.monotonic() - self._saved >= own.every_seconds
        if stop or due or late:
            self.save(step, optimiser, scaler, before_saving)
        if stop:
            raise StopRequestedError(f"stopped on request after step {step}")

    def save(
        self,
        step: int,
        optimiser: torch.optim.Optimizer,
        scaler: Any = None,
        before_saving: Callable[[], None] = lambda: None,
    ) -> None:
        """Saves, whether or not a checkpoint is due; the arguments are those of `after_step`."""
        if not self._checkpoints.writes:
            return
        before_saving()
        tensors = self._tensors()
        names = self._names()
        for parameter, moments in optimiser.state.items():
            start = f"{_OPTIMISER}.{names[id(parameter)]}"
            tensors |= {f"{start}.{moment}": torch.as_tensor(value) for moment, value in moments.items()}
        about = {"step": step, "scaler": {} if scaler is None else scaler.state_dict()}
        save_tensors(self._checkpoints.path, tensors, about)
        self._saved = time.monotonic()

    def _restore(self) -> int:
        path = self._checkpoints.path
        if not path.is_file():
            return 0
        try:
            about, saved = load_about(path), load_tensors(path)
            self._require_fitting(about, saved)
        except WorkspaceError as error:
            logger.warning("the training starts over, because its checkpoint cannot be used: %s", error.found)
            return 0
        with torch.no_grad():
            for name, tensor in self._of_modules().items():
                tensor.copy_(saved[name])
        for name, stream in self._streams.items():
            stream.set_state(saved[f"{_STREAM}.{name}"])
        for name, tensor in saved.items():
            if name.startswith(f"{_OPTIMISER}."):
                parameter, moment = _parameter_and_moment(name)
                self._moments.setdefault(parameter, {})[moment] = tensor
        self._scaler = dict(about["scaler"])
        return int(about["step"])

    def _require_fitting(self, about: Mapping[str, Any], saved: Mapping[str, Tensor]) -> None:
        """Refuses what another training saved, before anything is restored."""
        own = self._tensors()
        moments = {name for name in saved if name.startswith(f"{_OPTIMISER}.")}
        fits = isinstance(about.get("step"), int) and isinstance(about.get("scaler"), dict)
        fits &= saved.keys() - moments == own.keys() and all(_alike(saved[name], own[name]) for name in own)
        for name in moments:
            parameter = own.get(_parameter_and_moment(name)[0])
            fits &= parameter is not None and saved[name].shape in ((), parameter.shape)
        if not fits:
            raise WorkspaceError(f"{self._checkpoints.path} is the checkpoint of another training")

    def _tensors(self) -> dict[str, Tensor]:
        """All that is saved beside the optimiser, by name."""
        streams = {f"{_STREAM}.{name}": stream.get_state() for name, stream in self._streams.items()}
        return self._of_modules() | streams

    def _of_modules(self) -> dict[str, Tensor]:
        return {
            f"{_MODULE}.{name}.{key}": tensor
            for name, module in self._modules.items()
            for key, tensor in (*module.named_parameters(), *module.named_buffers())
        }

    def _names(self) -> dict[int, str]:
        return {id(tensor): name for name, tensor in self._of_modules().items()}


def _alike(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype


def _parameter_and_moment(name: str) -> tuple[str, str]:
    parameter, _, moment = name.removeprefix(f"{_OPTIMISER}.").rpartition(".")
    return parameter, moment
