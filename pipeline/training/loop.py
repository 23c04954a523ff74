"""The training loop: optimiser steps with a log, stopped when the loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from data.errors import TrainingError
from data.random_streams import stream_seed
from pipeline.training.checkpoint import Checkpoints, TrainingState
from pipeline.training.computing import Computing, ComputingOptions, Precision
from pipeline.training.optimiser import OptimiserOptions, make_optimiser
from pipeline.training.training_log import History, TrainingLog


@dataclass
class StepLoss:
    """The loss of a step, a scalar, with the terms to log and the names of the cases in the batch."""

    loss: torch.Tensor
    terms: Mapping[str, float] = field(default_factory=dict)
    cases: Iterable[str] = ()


@dataclass(frozen=True)
class TrainingPlan:
    """The steps of a training.

    Attributes:
        steps: number of optimiser steps.
        rate: step → learning rate.
        options: of the optimiser.
        seed: together with the step it seeds torch's own generator, from which dropout draws.
        log_every: steps between logged rows; the last step is always logged.
        keep: step → whether its row is logged in addition.
    """

    steps: int
    rate: Callable[[int], float]
    options: OptimiserOptions = field(default_factory=OptimiserOptions)
    seed: int = 0
    log_every: int = 10
    keep: Callable[[int], bool] = lambda step: False

    def is_logged(self, step: int) -> bool:
        """Whether the row of a step (from 0) is logged."""
        return is_logged(step, self.steps, self.log_every) or self.keep(step)


@dataclass(frozen=True)
class Resumption:
    """How an interrupted training resumes.

    Attributes:
        modules: content of a checkpoint.
        checkpoints: when and where to save, and to resume from.
        open_log: number of earlier steps → log of the training; `None` in a process that does not write.
    """

    modules: Mapping[str, torch.nn.Module]
    checkpoints: Checkpoints
    open_log: Callable[[int], TrainingLog] | None = None


def is_logged(step: int, steps: int, every: int) -> bool:
    """Whether a step (from 0) completes another `every` steps, or is the last."""
    return (step + 1) % every == 0 or step + 1 == steps


def train(
    groups: Sequence[Mapping[str, Any]],
    step_loss: Callable[[int], StepLoss],
    plan: TrainingPlan,
    *,
    after_step: Callable[[int, dict[str, float]], None] = lambda step, row: None,
    computing: Computing | None = None,
    resumption: Resumption | None = None,
) -> History:
    """Minimises a loss.

    Args:
        groups: parameter groups for the optimiser; `rate_factor` multiplies the group's learning rate. Parameters
            without gradient are ignored.
        step_loss: step → loss; draws its batch as a function of the step.
        plan: steps, rates and logging.
        after_step: called with the step (from 0) and its row, to which it may add.
        computing: precision and device; by default float32 on the device of the parameters.
        resumption: checkpoints and a log on disk.

    Raises:
        TrainingError: the loss or its gradient is not finite; names the step and the cases of the batch.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    optimised = [{"rate_factor": 1.0, **g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    learned = [p for group in optimised for p in group["params"]]
    computing = computing or Computing(
        ComputingOptions(precision=Precision.FLOAT32), learned[0].device.type if learned else "cpu"
    )
    options = plan.options
    optimiser = computing.optimiser(make_optimiser(optimised, plan.rate(0), options))
    state = TrainingState(resumption.modules if resumption else {}, optimiser, computing.scaler)
    first = resumption.checkpoints.restore(state) if resumption else 0
    with resumption.open_log(first) if resumption and resumption.open_log else nullcontext() as log:
        history = History(log.rows if log else [])
        for step in range(first, plan.steps):
            torch.manual_seed(stream_seed(plan.seed, "step", step))
            for group in optimiser.param_groups:
                group["lr"] = plan.rate(step) * group["rate_factor"]
            result = step_loss(step)
            value = float(result.loss.detach())
            _require_finite("loss", value, step, result.cases)
            optimiser.zero_grad(set_to_none=True)
            computing.backward(result.loss)
            norm = computing.clip(learned, options.gradient_clip)
            if computing.scaler is None:  # a scaler skips such steps and lowers its factor
                _require_finite("norm of the gradient", float(norm), step, result.cases)
            optimiser.step()
            row = {"step": step + 1, "loss": value, "rate": plan.rate(step), **result.terms}
            after_step(step, row)
            if plan.is_logged(step):
                log.write(row) if log else history.rows.append(row)
            if resumption and step + 1 < plan.steps:
                resumption.checkpoints.after_step(step + 1, state, *([log.sync] if log else []))
        if log:
            log.finish()
    return history


def _require_finite(what: str, value: float, step: int, cases: Iterable[str]) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} is {value} at step {step} (cases {', '.join(cases)})",
            expected="a finite number",
            fix="lower the peak rate, or check the pictures of these cases in the preprocess folder",
        )
