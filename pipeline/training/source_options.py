"""Options of training the source networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from data.options import Options
from models.objectives import Likelihood
from pipeline.training.optimiser import Decay, OptimiserOptions


class SourceOptimiserOptions(OptimiserOptions):
    """Options of Adam for source networks: their filters are to lose the random start, at no cost in Dice."""

    weight_decay: float = Field(default=1e-3, ge=0)
    """Strength of the weight decay."""
    decay: Decay = Decay.L2
    """How the weight decay acts; `weight_decay` means something else for each kind."""

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, raw: Any) -> Any:
        """Reads resolved configurations from before the kind could be chosen as they were meant."""
        if isinstance(raw, Mapping) and {"weight_decay", "gradient_clip"} == set(raw):
            return {**raw, "decay": Decay.DECOUPLED}
        return raw


class SourceTrainingOptions(Options):
    """Number and training of the source networks."""

    networks: int = Field(default=5, ge=1)
    """B: number of networks, each trained on its own bootstrap sample of the source patients."""
    cycles: int = Field(default=4, ge=1)
    """Cycles of the learning rate, with a snapshot at the end of each."""
    steps_per_cycle: int = Field(default=1000, ge=1)
    """Optimiser steps of a cycle."""
    peak_rate: float = Field(default=3e-3, gt=0)
    """Learning rate at the start of each cycle."""
    floor_rate: float = Field(default=1e-5, ge=0)
    """Learning rate at the end of each cycle."""
    warm_up: int = Field(default=50, ge=0)
    """Steps of the first cycle (and of the trunk) over which the rate rises to its peak."""
    trunk_steps: int = Field(default=0, ge=0)
    """Steps of a trunk, from which all networks branch, so that their channels correspond; 0 for networks that start at
    random, each by itself."""
    likelihood: Likelihood = Likelihood.DICE_CROSS_ENTROPY
    """Data term of the loss."""
    optimiser: SourceOptimiserOptions = Field(default_factory=SourceOptimiserOptions)
    validation_cases: int = Field(default=8, ge=1)
    """Out-of-bag cases on which Dice is measured at the end of each cycle."""

    @property
    def has_trunk(self) -> bool:
        """Whether the networks branch from a trunk."""
        return self.trunk_steps > 0

    def of_trunk(self) -> SourceTrainingOptions:
        """The training of the trunk: a network like the others, with one cycle."""
        return self.model_copy(update={"cycles": 1, "steps_per_cycle": self.trunk_steps})

    def in_recipe(self) -> dict[str, Any]:
        """What a network depends on: more networks, or more validation cases, do not make an existing one stale.

        The trunk is a unit of its own, whose digest stands in the recipes of its branches.
        """
        content = self.model_dump(mode="json", exclude={"networks", "validation_cases", "trunk_steps"})
        return {**content, "optimiser": self.optimiser.in_recipe()}
