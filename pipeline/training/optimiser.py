"""The optimiser of every training: Adam, with weight decay of a chosen kind and strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from pydantic import Field

from data.options import Options


class Decay(StrEnum):
    """How weight decay acts."""

    DECOUPLED = "decoupled"
    """AdamW: every step multiplies a weight by 1 − rate · decay, whatever its gradient. Over a training, a weight that
    the data does not push shrinks to exp(−Σ rate · decay) of its start: with a mean rate of 1.5e-3 over 1,000 steps, to
    99.98 % at 1e-4, 22 % at 1 and 1 % at 3."""
    L2 = "l2"
    """An L2 penalty inside Adam: decay · weight is added to the clipped gradient before Adam divides by its size. Even
    a small decay then moves a weight without any other gradient by a full step towards zero, so 1e-3 is strong."""


class OptimiserOptions(Options):
    """Options of Adam.

    All weights decay alike, biases and weights of normalisations included, except those that an arm has a prior for.
    """

    weight_decay: float = Field(default=1e-4, ge=0)
    """Strength of the weight decay."""
    decay: Decay = Decay.DECOUPLED
    """How the weight decay acts; `weight_decay` means something else for each kind."""
    gradient_clip: float = Field(default=12.0, gt=0)
    """Largest norm of the gradient."""

    def in_recipe(self) -> dict[str, Any]:
        """What a training depends on; trainings from before the kind could be chosen keep their recipes."""
        return self.model_dump(mode="json", exclude={"decay"} if self.decay is Decay.DECOUPLED else None)


def make_optimiser(
    groups: Sequence[Mapping[str, Any]], rate: float, options: OptimiserOptions
) -> torch.optim.Optimizer:
    """Makes the optimiser of parameter groups; a group may set its own `weight_decay`."""
    kind = torch.optim.AdamW if options.decay is Decay.DECOUPLED else torch.optim.Adam
    return kind([dict(group) for group in groups], lr=rate, weight_decay=options.weight_decay, fused=True)
