"""A factorised normal distribution over the filters: a mean and a log-variance for each weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.filters import FilterLayer
from models.posteriors.posterior import Posterior, PosteriorOptionsBase
from models.random_draws import standard_normal


class MeanFieldOptions(PosteriorOptionsBase):
    """Settings of a mean-field posterior."""

    kind: Literal["mean_field"] = "mean_field"
    initial_log_variance: float = Field(
        default=-6.0, description="Log-variance at the start; see relative_to_layer for its unit."
    )
    relative_to_layer: bool = Field(
        default=True,
        description="Whether the initial log-variance is relative to the mean square of the layer's starting weights; "
        "otherwise it is absolute (−5 in the authors' code, a deviation larger than most trained weights).",
    )
    antithetic: bool = Field(default=False, description="Draw in pairs mean ± deviation where several draws are made.")


class MeanField(Posterior):
    """Independent normal distributions.

    Args:
        means: `[F, 27]`, where the means start.
        log_variance: `[F, 27]` or broadcastable to it, where the log-variances start.
        antithetic: whether `samples` draws in pairs.
    """

    def __init__(self, means: Tensor, log_variance: Tensor | float, antithetic: bool = False) -> None:
        super().__init__()
        means = means.detach()
        self.means = nn.Parameter(means.clone())
        self.log_variances = nn.Parameter(torch.zeros_like(means) + log_variance)
        self.antithetic = antithetic

    @classmethod
    def from_options(cls, options: MeanFieldOptions, means: Tensor, layers: Sequence[FilterLayer]) -> MeanField:
        """Builds the posterior around starting means.

        Args:
            options: settings.
            means: `[F, 27]`.
            layers: all layers of the network, in the order of the filters.
        """
        log_variance: Tensor | float = options.initial_log_variance
        if options.relative_to_layer:
            blocks = means.detach().split([layer.count for layer in layers])
            squares = [block.square().mean().clamp_min(1e-12).log().expand(len(block)) for block in blocks]
            log_variance = torch.cat(squares)[:, None] + options.initial_log_variance
        return cls(means, log_variance, options.antithetic)

    @property
    def count(self) -> int:
        """Number of filters, F."""
        return len(self.means)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draws mean + deviation · ε, `[F, 27]` (Kingma and Welling 2014)."""
        noise = standard_normal(self.means.shape, self.means, generator)
        return torch.addcmul(self.means, torch.exp(0.5 * self.log_variances), noise)

    def samples(self, number: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws `[S, F, 27]`; with antithetic draws, the second of each pair mirrors the first at the mean."""
        if not self.antithetic:
            return super().samples(number, generator)
        draws: list[Tensor] = []
        while len(draws) < number:
            first = self.sample(generator)
            draws += [first, 2 * self.means - first]
        return torch.stack(draws[:number])

    def mean(self) -> Tensor:
        """Returns the means, `[F, 27]`."""
        return self.means

    def entropy_per_filter(self) -> Tensor:
        """Returns ½ Σ (log σ² + 1 + log 2π), `[F]`."""
        return 0.5 * (self.log_variances + (1 + math.log(2 * math.pi))).sum(1)

    def log_prob(self, filters: Tensor) -> Tensor:
        """Returns log q of each filter, `[F]`."""
        squared = (filters - self.means).square() * torch.exp(-self.log_variances)
        return -0.5 * (squared + self.log_variances + math.log(2 * math.pi)).sum(1)
