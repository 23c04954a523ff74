"""Options of training the source networks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from data.options import Options
from models.objectives import Likelihood
from pipeline.training.optimiser import OptimiserOptions


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
    """Steps of the first cycle over which the rate rises to its peak."""
    likelihood: Likelihood = Likelihood.DICE_CROSS_ENTROPY
    """Data term of the loss."""
    optimiser: OptimiserOptions = Field(default_factory=OptimiserOptions)
    validation_cases: int = Field(default=8, ge=1)
    """Out-of-bag cases on which Dice is measured at the end of each cycle."""

    def in_recipe(self) -> dict[str, Any]:
        """What a network depends on: more networks, or more validation cases, do not make an existing one stale."""
        content = self.model_dump(mode="json", exclude={"networks", "validation_cases"})
        return {**content, "optimiser": self.optimiser.in_recipe()}
