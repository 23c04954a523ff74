"""A factorised normal distribution over the filters: a mean and a log-variance for each weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from data.options import Options
from models.factorised_normal import FactorisedNormal
from models.filters import FilterLayer
from models.posteriors.posterior import Posterior
from models.random_draws import standard_normal


class Estimator(StrEnum):
    """How the data term of a training step is made random."""

    WEIGHTS = "weights"
    """One draw of the filters serves the whole batch: the cost of a deterministic step, and any network."""
    LOCAL_REPARAMETERISATION = "local_reparameterisation"
    """Activations are drawn in place of filters: less noise in the gradient, a second convolution in every layer."""


class MeanFieldOptions(Options):
    """Settings of a mean-field posterior."""

    kind: Literal["mean_field"] = "mean_field"
    initial_log_variance: float = Field(
        default=-6.0,
        ge=-40,
        le=10,
        description="Log-variance at the start; see relative_to_layer for its unit. Relative to the layer, 0 is a "
        "standard deviation as large as the weights themselves, −2 one of 37 %, −6 one of 5 % of them.",
    )
    relative_to_layer: bool = Field(
        default=True,
        description="Whether the initial log-variance is relative to the mean square of the layer's starting weights; "
        "otherwise it is absolute (−5 in the authors' code, a deviation larger than most trained weights).",
    )
    antithetic: bool = Field(default=False, description="Draw in pairs mean ± deviation where several draws are made.")
    estimator: Estimator = Field(default=Estimator.WEIGHTS, description="How the data term of a step is estimated.")


class _Reparameterised(torch.autograd.Function):
    """Mean + deviation · ε; keeps the one product that its gradient needs, and no other matrix of all filters."""

    @staticmethod
    def forward(ctx: FunctionCtx, means: Tensor, log_variances: Tensor, noise: Tensor) -> Tensor:
        """Returns means + exp(½ log_variances) · noise; overwrites the noise."""
        shift = noise.mul_(log_variances.mul(0.5).exp_())
        ctx.save_for_backward(shift)
        return means + shift

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """The draw moves with the mean one to one, and with a log-variance by half of its shift."""
        (shift,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient, (gradient * shift).mul_(0.5), None


class MeanField(Posterior):
    """Independent normal distributions.

    Args:
        means: `[F, 27]`, where the means start.
        log_variance: `[F, 27]` or broadcastable to it, where the log-variances start.
        antithetic: whether `draw_each` draws in pairs.
    """

    def __init__(self, means: Tensor, log_variance: Tensor | float, antithetic: bool = False) -> None:
        super().__init__()
        means = means.detach()
        self.means = nn.Parameter(means.clone())
        self.log_variances = nn.Parameter(torch.zeros_like(means) + log_variance)
        self.antithetic = antithetic

    @classmethod
    def from_options(cls, options: MeanFieldOptions, means: Tensor, layers: Sequence[FilterLayer]) -> MeanField:
        """Builds the posterior around starting means."""
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
        drawn: Tensor = _Reparameterised.apply(self.means, self.log_variances, noise)
        return drawn

    def draw_each(self, number: int, generator: torch.Generator | None = None) -> Iterator[tuple[int, Tensor]]:
        """Draws one after another; with antithetic draws, the second of each pair mirrors the first at the mean."""
        if not self.antithetic:
            yield from super().draw_each(number, generator)
            return
        for start in range(0, number, 2):
            first = self.sample(generator)
            yield 0, first
            if start + 1 < number:
                yield 0, 2 * self.means - first

    def mean(self) -> Tensor:
        """Returns the means, `[F, 27]`."""
        return self.means

    def normal(self) -> FactorisedNormal:
        """Returns means and log-variances, `[F, 27]` each."""
        return FactorisedNormal(self.means, self.log_variances)

    def entropy_per_filter(self) -> Tensor:
        """Returns ½ Σ (log σ² + 1 + log 2π), `[F]`."""
        return 0.5 * (self.log_variances + (1 + math.log(2 * math.pi))).sum(1)

    def log_prob(self, filters: Tensor) -> Tensor:
        """Returns log q of each filter, `[F]`."""
        squared = (filters - self.means).square() * torch.exp(-self.log_variances)
        return -0.5 * (squared + self.log_variances + math.log(2 * math.pi)).sum(1)
