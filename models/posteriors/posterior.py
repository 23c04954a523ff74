"""What every posterior over the filters of a network can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn


class PosteriorOptionsBase(BaseModel):
    """Base of the options of all posteriors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Posterior(nn.Module, ABC):
    """A distribution q(w) over all filters of one network, `[F, 27]`, ordered as `get_filters` orders them."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of filters, F."""

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` and an entropy exist (not for a point estimate)."""
        return True

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws all filters of the network once, `[F, 27]`, differentiable in the posterior's parameters."""

    def samples(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws all filters several times, `[S, F, 27]`; a posterior may make the draws complement each other."""
        return torch.stack([self.sample(generator) for _ in range(number)])

    @abstractmethod
    def mean(self) -> Tensor:
        """Returns the mean of q, `[F, 27]`."""

    @abstractmethod
    def entropy_per_filter(self) -> Tensor:
        """Returns the entropy of each filter's own distribution, `[F]` nats; in closed form where there is one."""

    @abstractmethod
    def log_prob(self, filters: Tensor) -> Tensor:
        """Returns log q of each filter's own distribution, `[F]` nats, at filters `[F, 27]`.

        Raises:
            ModelError: if the posterior has no density.
        """

    def entropy_term(self, filters: Tensor) -> Tensor:
        """Returns what stands for H(q) in the objective, `[F]` nats; its sum has H(q) as its expectation.

        Args:
            filters: `[F, 27]`, the draw that the data term is computed with; closed forms ignore it.
        """
        return self.entropy_per_filter()
