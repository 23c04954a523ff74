"""The training loop: one optimiser step after another, logged, stopped where the loss is no longer finite."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from data.errors import TrainingError
from data.options import Options
from data.random_streams import stream_seed
from pipeline.storage.atomic import temporary_sibling
from pipeline.training.checkpoint import Checkpoints, TrainingState
from pipeline.training.computing import Computing, ComputingOptions, Precision
from pipeline.training.training_log import TrainingLog


class OptimiserOptions(Options):
    """AdamW and what keeps it stable."""

    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay."""
    gradient_clip: float = Field(default=12.0, gt=0)
    """Largest norm of the gradient."""


@dataclass
class StepLoss:
    """What a step gives back.

    Attributes:
        loss: scalar to be minimised.
        terms: numbers for the log.
        cases: names of the cases in the batch.
    """

    loss: torch.Tensor
    terms: Mapping[str, float] = field(default_factory=dict)
    cases: Iterable[str] = ()


@dataclass
class History:
    """Rows of numbers, one a logged step; written as CSV."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes the rows; columns are those of all rows in order of appearance."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with temporary_sibling(path) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(self.rows)


@dataclass(frozen=True)
class TrainingPlan:
    """The steps of a training.

    Attributes:
        steps: number of optimiser steps.
        rate: step → learning rate.
        options: of the optimiser.
        seed: with the step it seeds torch's own generator, which dropout draws from.
        log_every: every how many steps a row is kept; the last one always is.
        keep: step → whether its row is kept in any case.
    """

    steps: int
    rate: Callable[[int], float]
    options: OptimiserOptions = field(default_factory=OptimiserOptions)
    seed: int = 0
    log_every: int = 10
    keep: Callable[[int], bool] = lambda step: False

    def is_logged(self, step: int) -> bool:
        """Whether the row of a step (from 0) is kept."""
        return is_logged(step, self.steps, self.log_every) or self.keep(step)


@dataclass(frozen=True)
class Resumption:
    """How a training that is stopped goes on.

    Attributes:
        modules: what a checkpoint holds.
        checkpoints: when and where to save, and to go on from.
        open_log: steps done before → log of the training, which the rows are left to; None in a process that writes
            none.
    """

    modules: Mapping[str, torch.nn.Module]
    checkpoints: Checkpoints
    open_log: Callable[[int], TrainingLog] | None = None


def is_logged(step: int, steps: int, every: int) -> bool:
    """Whether a step (from 0) is one of every so many, or the last."""
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
        groups: what is learned, as AdamW takes it; `rate_factor` multiplies the group's learning rate.
            Parameters without gradient are left alone.
        step_loss: step → loss; draws its batch as a function of the step.
        plan: steps, rates, and what is logged.
        after_step: called with the step (from 0) and the numbers of the step; may add to them.
        computing: precision and device; float32 where the parameters lie by default.
        resumption: checkpoints and a log on the disk; none by default.

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
    optimiser = computing.optimiser(
        torch.optim.AdamW(optimised, lr=plan.rate(0), weight_decay=options.weight_decay, fused=True)
    )
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
            if computing.scaler is None:  # the scaler skips such steps and lowers its factor
                _require_finite("norm of the gradient", float(norm), step, result.cases)
            optimiser.step()
            row = {"step": step + 1, "loss": value, "rate": plan.rate(step), **result.terms}
            after_step(step, row)
            if plan.is_logged(step):
                log.write(row) if log else history.rows.append(row)
            if resumption and step + 1 < plan.steps:
                resumption.checkpoints.after_step(step + 1, state, log.sync if log else _nothing)
        if log:
            log.finish()
    return history


def _nothing() -> None:
    """There is no log to wait for."""


def _require_finite(what: str, value: float, step: int, cases: Iterable[str]) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} is {value} at step {step} (cases {', '.join(cases)})",
            expected="a finite number",
            fix="lower the peak rate, or look at these cases' pictures in the preprocess folder",
        )
