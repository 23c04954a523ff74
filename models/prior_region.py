"""Which filters have left their prior: those that are less likely under it than 99 % of its own draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.filters import FilterPositions
from models.priors.prior import FilterPrior
from models.random_draws import random_rows

_WATCHED = 256
"""Filters of a group that are looked at."""
# The k-th smallest of N densities of draws is above that of another draw with probability k / (N + 1): here .01.
_DRAWS, _BELOW = 9_999, 100
_DRAWS_AT_EACH, _BELOW_AT_EACH = 199, 2
_SCORED_TOGETHER = 8_192


@dataclass(frozen=True)
class PriorRegion:
    """The least densities of draws from a prior, against which filters are held.

    Attributes:
        prior: the density.
        rows: `[M]`, the rows of the watched filters among all filters of a network.
        where: their positions.
        least: `[1]`, or `[M]` for a prior that depends on the position: log density in nats below which 1 % of the
            prior's draws (there) are.
        samples: latent draws K of priors that are bounds.
    """

    prior: FilterPrior
    rows: Tensor
    where: FilterPositions
    least: Tensor
    samples: int = 1

    @classmethod
    @torch.no_grad()
    def of(
        cls, prior: FilterPrior, rows: Tensor, where: FilterPositions, samples: int, generator: torch.Generator
    ) -> PriorRegion:
        """Draws from a prior and finds what 99 % of its draws exceed.

        Args:
            prior: the density.
            rows: `[F]`, the rows of a group's filters among all filters of a network; some of them will be watched.
            where: their positions.
            samples: latent draws K of priors that are bounds.
            generator: source of the choice and the draws.
        """
        chosen = random_rows(len(rows), _WATCHED, generator).to(rows.device)
        rows, where = rows[chosen], where[chosen]
        if not prior.needs_positions:
            least = _scores(prior, None, prior.sample(_DRAWS, generator), samples, generator).kthvalue(_BELOW).values
            return cls(prior, rows, where, least[None], samples)
        each = torch.arange(len(rows), device=rows.device).repeat_interleave(_DRAWS_AT_EACH)
        scores = _scores(prior, where[each], prior.sample(where[each], generator), samples, generator)
        least = scores.reshape(len(rows), _DRAWS_AT_EACH).kthvalue(_BELOW_AT_EACH, dim=1).values
        return cls(prior, rows, where, least, samples)

    @torch.no_grad()
    def share_outside(self, filters: Tensor, generator: torch.Generator) -> float:
        """Returns the share of the watched filters that have left the prior; .01 for draws from it.

        Args:
            filters: `[F, 27]`, all filters of the network: the means of a posterior, or a point estimate.
            generator: source of the latent draws.
        """
        scores = _scores(self.prior, self.where, filters[self.rows], self.samples, generator)
        return float((scores < self.least).double().mean())


def _scores(
    prior: FilterPrior, where: FilterPositions | None, filters: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    parts = torch.arange(len(filters), device=filters.device).split(_SCORED_TOGETHER)
    found = [prior.log_prob(filters[p], None if where is None else where[p], samples, generator) for p in parts]
    return torch.cat(found)
