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


def train(
    groups: Sequence[Mapping[str, Any]],
    step_loss: Callable[[int], StepLoss],
    *,
    steps: int,
    rate: Callable[[int], float],
    options: OptimiserOptions,
    after_step: Callable[[int, dict[str, float]], None] = lambda step, row: None,
    log_every: int = 10,
    keep: Callable[[int], bool] = lambda step: False,
    seed: int = 0,
    modules: Mapping[str, torch.nn.Module] | None = None,
    computing: Computing | None = None,
    checkpoints: Checkpoints | None = None,
    open_log: Callable[[int], TrainingLog] | None = None,
) -> History:
    """Minimises a loss.

    Args:
        groups: what is learned, as AdamW takes it; `rate_factor` multiplies the group's learning rate.
            Parameters without gradient are left alone.
        step_loss: step → loss; draws its batch as a function of the step.
        steps: number of optimiser steps.
        rate: step → learning rate.
        options: of the optimiser.
        after_step: called with the step (from 0) and the numbers of the step; may add to them.
        log_every: every how many steps a row is kept; the last one always is.
        keep: step → whether its row is kept in any case.
        seed: with the step it seeds torch's own generator, which dropout draws from.
        modules: what a checkpoint holds; needed with `checkpoints`.
        computing: precision and device; float32 where the parameters lie by default.
        checkpoints: when and where to save, and to go on from.
        open_log: steps done before → log of the training; needed with `checkpoints`, which leave the rows to it.

    Raises:
        TrainingError: the loss or its gradient is not finite; names the step and the cases of the batch.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    optimised = [{"rate_factor": 1.0, **g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
    learned = [p for group in optimised for p in group["params"]]
    computing = computing or Computing(
        ComputingOptions(precision=Precision.FLOAT32), learned[0].device.type if learned else "cpu"
    )
    optimiser = computing.optimiser(
        torch.optim.AdamW(optimised, lr=rate(0), weight_decay=options.weight_decay, fused=True)
    )
    state = TrainingState(modules or {}, optimiser, computing.scaler)
    first = checkpoints.restore(state) if checkpoints else 0
    with open_log(first) if open_log else nullcontext() as log:
        history = History(log.rows if log else [])
        for step in range(first, steps):
            torch.manual_seed(stream_seed(seed, "step", step))
            for group in optimiser.param_groups:
                group["lr"] = rate(step) * group["rate_factor"]
            result = step_loss(step)
            value = float(result.loss.detach())
            _require_finite("loss", value, step, result.cases)
            optimiser.zero_grad(set_to_none=True)
            computing.backward(result.loss)
            norm = computing.clip(learned, options.gradient_clip)
            if computing.scaler is None:  # the scaler skips such steps and lowers its factor
                _require_finite("norm of the gradient", float(norm), step, result.cases)
            optimiser.step()
            row = {"step": step + 1, "loss": value, "rate": rate(step), **result.terms}
            after_step(step, row)
            if (step + 1) % log_every == 0 or step + 1 == steps or keep(step):
                log.write(row) if log else history.rows.append(row)
            if checkpoints and step + 1 < steps:
                checkpoints.after_step(step + 1, state, log.sync if log else _nothing)
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
