"""Options of Gaussian priors."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from data.options import Options
from models.priors.standardisation import Covariance, Scaling


class Centre(StrEnum):
    """Where the mean of a Gaussian comes from."""

    POOLED = "pooled"
    """From all filters of the group: a prior that does not know where a filter sits."""
    SOURCE_POSITION = "source_position"
    """From the filter at the same position of one source network (MOPED-like, Krishnan et al. 2020)."""
    BRANCHES = "branches"
    """The mean, at the same position, of source networks that branch from one trunk; around it, what another sample
    of patients changes."""


class GaussianOptions(Options):
    """Settings of a Gaussian prior."""

    kind: Literal["gaussian"] = "gaussian"
    covariance: Covariance = Field(default=Covariance.FULL, description="Form of the covariance.")
    centre: Centre = Field(default=Centre.POOLED, description="Where the mean comes from.")
    rank: int = Field(default=6, ge=1, description="Directions of a low-rank or factor covariance.")
    scaling: Scaling = Field(default=Scaling.NONE, description="What filters are divided by before they are pooled.")
    zero_mean: bool = Field(default=False, description="Fix the pooled mean at zero.")
    network: int | None = Field(
        default=None,
        ge=0,
        description="Source network whose positions are the centres; needed if the bank has several.",
    )
    last_snapshot: bool = Field(default=False, description="Centre on the last snapshot, not on the average of all.")
    relative_std: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation at a position as a share of the layer's root mean square; "
        "none estimates it from the snapshots (or branches).",
    )
    spread: float = Field(
        default=1.0, gt=0, description="Factor on the standard deviations between snapshots (or branches)."
    )
    std_floor: float = Field(
        default=0.05, gt=0, description="Smallest standard deviation at a position, as a share of the layer's RMS."
    )
    shrinkage: float | None = Field(
        default=4.0,
        ge=0,
        description="Weight of the layer's variance against a position's own, in snapshots (or branches). Of branches, "
        "none takes the weight under which those that are left out, one at a time, are most likely.",
    )

    @model_validator(mode="after")
    def _position_settings(self) -> Self:
        if self.relative_std is not None and self.covariance in (Covariance.FULL, Covariance.LOW_RANK):
            raise ValueError("relative_std fixes the spread: use the isotropic covariance with it")
        if self.centre is not Centre.POOLED and self.covariance is Covariance.FACTOR:
            raise ValueError("factor analysis needs many filters: around source positions use low_rank")
        if self.centre is not Centre.BRANCHES and self.shrinkage is None:
            raise ValueError("shrinkage is chosen on branches that are left out: set `centre: branches`, or a number")
        if self.centre is Centre.BRANCHES and self.network is not None:
            raise ValueError("branches are centred on their mean, and not on one network: leave out `network`")
        if self.centre is Centre.BRANCHES and self.last_snapshot:
            raise ValueError("of branches the last snapshots alone are used: leave out `last_snapshot`")
        return self
