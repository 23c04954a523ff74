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


class DecayedWeights(StrEnum):
    """Which weights decay; never those that an arm has a prior for."""

    ALL = "all"
    """All, biases and weights of normalisations included. A strong decay then keeps logits small: at 3, no weight of a
    normalisation stays above a third."""
    KERNELS = "kernels"
    """Those of convolutions alone."""


class OptimiserOptions(Options):
    """Options of Adam."""

    weight_decay: float = Field(default=1e-4, ge=0)
    """Strength of the weight decay."""
    decay: Decay = Decay.DECOUPLED
    """How the weight decay acts; `weight_decay` means something else for each kind."""
    decayed: DecayedWeights = DecayedWeights.ALL
    """Which weights decay."""
    gradient_clip: float = Field(default=12.0, gt=0)
    """Largest norm of the gradient."""

    def in_recipe(self) -> dict[str, Any]:
        """What a training depends on; trainings from before these choices keep their recipes."""
        first = {"decay": Decay.DECOUPLED, "decayed": DecayedWeights.ALL}
        left_out = {name for name, value in first.items() if getattr(self, name) is value}
        return self.model_dump(mode="json", exclude=left_out)


def make_optimiser(
    groups: Sequence[Mapping[str, Any]], rate: float, options: OptimiserOptions
) -> torch.optim.Optimizer:
    """Makes the optimiser of parameter groups; a group may set its own `weight_decay`."""
    if options.decayed is DecayedWeights.KERNELS:
        groups = [part for group in groups for part in _kernels_apart(group)]
    kind = torch.optim.AdamW if options.decay is Decay.DECOUPLED else torch.optim.Adam
    return kind([dict(group) for group in groups], lr=rate, weight_decay=options.weight_decay, fused=True)


def _kernels_apart(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Divides a group into kernels, and biases and weights of normalisations, which are vectors and do not decay."""
    kernels = [parameter for parameter in group["params"] if parameter.ndim > 1]
    vectors = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    return [{**group, "params": kernels}, {**group, "params": vectors, "weight_decay": 0.0}]
