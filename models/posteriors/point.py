"""A point estimate of the filters: training as usual, or the maximum a posteriori under a filter prior."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import ModelError
from data.options import Options
from models.posteriors.posterior import Posterior


class PointOptions(Options):
    """Settings of a point estimate; it has none."""

    kind: Literal["point"] = "point"


class Point(Posterior):
    """One value for each weight."""

    def __init__(self, filters: Tensor) -> None:
        super().__init__()
        self.filters = nn.Parameter(filters.detach().clone())

    @property
    def count(self) -> int:
        """Number of filters, F."""
        return len(self.filters)

    @property
    def has_density(self) -> bool:
        """False."""
        return False

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Returns the filters themselves, `[F, 27]`."""
        return self.filters

    def mean(self) -> Tensor:
        """Returns the filters themselves, `[F, 27]`."""
        return self.filters

    def entropy_per_filter(self) -> Tensor:
        """Returns zeros, `[F]`: the entropy is a constant (minus infinity) that the MAP objective leaves out."""
        return torch.zeros_like(self.filters[:, 0])

    def log_prob(self, filters: Tensor) -> Tensor:
        """Refuses: a point estimate has no density."""
        raise ModelError("a point estimate has no density", expected="posterior: mean_field, mixture or swag")
