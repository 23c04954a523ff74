"""Options of an image model: what it learns, from which scans, and how it is trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, field_validator

from data.options import Options
from models.image_models.objectives import Denoising, ImageObjective
from pipeline.training.optimiser import OptimiserOptions


class Scans(StrEnum):
    """Scans that an image model may learn from. No tested patient is ever among them."""

    SOURCE = "source"
    """Those of the source patients."""
    POOL = "pool"
    """Those of the pool, where the tested patients are others; in cross-validation, everybody is tested."""
    UNLABELLED = "unlabelled"
    """Those of `target.unlabelled`."""


class ImageModelOptions(Options):
    """A network that learns what scans look like; their labels are not read."""

    objective: ImageObjective = Field(default_factory=Denoising)
    """What it learns: `denoising`, `masked`, `sparse`, `contractive` or `variational`, or a mapping with `kind` and its
    settings."""
    learn_from: tuple[Scans, ...] = Field(default=tuple(Scans), min_length=1)
    """Which scans it learns from; those with other channels than the target's are left out."""
    from_source: bool = False
    """Whether it goes on from source network 0 instead of starting at random."""
    steps: int = Field(default=2000, ge=1)
    """Optimiser steps."""
    peak_rate: float = Field(default=2e-3, gt=0)
    """Learning rate after the warm-up."""
    floor_rate: float = Field(default=1e-5, ge=0)
    """Learning rate at the end."""
    warm_up: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the rate rises to the peak."""
    log_every: int = Field(default=10, ge=1)
    """Number of steps between rows of `history.csv`."""
    optimiser: OptimiserOptions = Field(default_factory=OptimiserOptions)

    @field_validator("objective", mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("learn_from")
    @classmethod
    def _each_once(cls, value: tuple[Scans, ...]) -> tuple[Scans, ...]:
        return tuple(scans for scans in Scans if scans in value)

    def in_recipe(self) -> dict[str, Any]:
        """What a model depends on, its scans and its start apart."""
        content = self.model_dump(mode="json", exclude={"learn_from", "from_source", "log_every"})
        return {**content, "optimiser": self.optimiser.in_recipe()}
