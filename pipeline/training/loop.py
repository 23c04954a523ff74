"""The training loop: optimiser steps with a log, stopped when the loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data.errors import TrainingError
from data.random_streams import stream_seed
from pipeline.training.checkpoint import Resumption
from pipeline.training.computing import Computing, ComputingOptions, Precision
from pipeline.training.optimiser import OptimiserOptions, make_optimiser
from pipeline.training.training_log import History


@dataclass
class StepLoss:
    """The loss of a step, a scalar, with the terms to log and the names of the cases in the batch."""

    loss: torch.Tensor
    terms: Mapping[str, float] = field(default_factory=dict)
    cases: Iterable[str] = ()


@dataclass(frozen=True)
class TrainingPlan:
    """The steps of a training, or of one of its rounds.

    Attributes:
        steps: number of optimiser steps.
        rate: step → learning rate.
        options: of the optimiser.
        seed: together with the step it seeds torch's own generator, from which dropout draws.
        log_every: steps between logged rows; the last step is always logged.
        keep: step → whether its row is logged in addition.
        earlier: steps of the rounds before, from which the log and checkpoints count on.
    """

    steps: int
    rate: Callable[[int], float]
    options: OptimiserOptions = field(default_factory=OptimiserOptions)
    seed: int = 0
    log_every: int = 10
    keep: Callable[[int], bool] = lambda step: False
    earlier: int = 0

    def is_logged(self, step: int) -> bool:
        """Whether the row of a step (from 0) is logged."""
        return is_logged(step, self.steps, self.log_every) or self.keep(step)


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
    history: History | None = None,
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
        history: receives the logged rows, after those of the steps that are done; by default one in memory.
        resumption: checkpoints, and the steps that are done.

    Returns:
        The history.

    Raises:
        TrainingError: the loss or its gradient is not finite; names the step and the cases of the batch. The state
            before that step is saved.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    optimised = [{"rate_factor": 1.0, **g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    learned = [p for group in optimised for p in group["params"]]
    computing = computing or Computing(
        ComputingOptions(precision=Precision.FLOAT32), learned[0].device.type if learned else "cpu"
    )
    options = plan.options
    optimiser = computing.optimiser(make_optimiser(optimised, plan.rate(0), options))
    history = History() if history is None else history
    first = resumption.begin_round(plan.earlier, optimiser, computing.scaler) if resumption else 0

    def require_finite(what: str, value: float, step: int, cases: Iterable[str]) -> None:
        if math.isfinite(value):
            return
        if resumption and step > first:
            resumption.save(plan.earlier + step, optimiser, computing.scaler, history.sync)
        raise TrainingError(
            f"the {what} is {value} at step {step} (cases {', '.join(cases)})",
            expected="a finite number",
            fix="lower the peak rate, or check the pictures of these cases in the preprocess folder",
        )

    for step in range(first, plan.steps):
        torch.manual_seed(stream_seed(plan.seed, "step", step))
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step) * group["rate_factor"]
        result = step_loss(step)
        value = float(result.loss.detach())
        require_finite("loss", value, step, result.cases)
        optimiser.zero_grad(set_to_none=True)
        computing.backward(result.loss)
        norm = computing.clip(learned, options.gradient_clip)
        if computing.scaler is None:  # a scaler skips such steps and lowers its factor
            require_finite("norm of the gradient", float(norm), step, result.cases)
        optimiser.step()
        done = plan.earlier + step + 1
        row = {"step": done, "loss": value, "rate": plan.rate(step), **result.terms}
        after_step(step, row)
        if plan.is_logged(step):
            history.add(row)
        if resumption and step + 1 < plan.steps:
            resumption.after_step(done, optimiser, computing.scaler, history.sync)
    return history
