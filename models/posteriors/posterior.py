"""What every posterior over the filters of a network can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.factorised_normal import FactorisedNormal


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

    def draw_each(self, number: int, generator: torch.Generator | None = None) -> Iterator[tuple[int, Tensor]]:
        """Draws all filters several times, one draw in memory at a time.

        A posterior may make the draws complement each other (antithetic pairs, strata).

        Yields:
            The component that the draw comes from (0 if there is only one), and the filters `[F, 27]`.
        """
        for _ in range(number):
            yield 0, self.sample(generator)

    @abstractmethod
    def mean(self) -> Tensor:
        """Returns the mean of q, `[F, 27]`."""

    def normal(self) -> FactorisedNormal | None:
        """Returns the independent normals that q is, where it is of that form, differentiable in its parameters."""
        return None

    @abstractmethod
    def entropy_per_filter(self) -> Tensor:
        """Returns the entropy of each filter's own distribution, `[F]` nats; in closed form where there is one."""

    @abstractmethod
    def log_prob(self, filters: Tensor) -> Tensor:
        """Returns log q of each filter's own distribution, `[F]` nats, at filters `[F, 27]`.

        Raises:
            ModelError: if the posterior has no density.
        """

    def entropy_term(self, filters: Tensor, beside: Tensor | None = None) -> Tensor:
        """Returns the terms of H(q) in the objective, `[F]` nats; the expectation of their sum is H(q).

        Args:
            filters: `[F, 27]`, the draw of the data term; closed forms ignore it.
            beside: `[C]`, log density under each component of the weights drawn together with the filters; only a
                mixture, whose entropy does not split, uses it.
        """
        return self.entropy_per_filter()
