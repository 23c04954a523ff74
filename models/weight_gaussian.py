"""Independent normal densities over the weights of one network, each weight with its own mean.

As a prior of a point estimate this is L2 regularisation, towards zero or towards the weights of a source network
(L2-SP, Li, Grandvalet, Davoine, ICML 2018), written as the exact maximum a posteriori.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from models.posteriors.posterior import Posterior


class WeightGaussian(nn.Module):
    """N(mean, std²) for every weight.

    Args:
        means: `[N, D]`.
        stds: `[N, 1]` or `[N, D]`, above 0.
    """

    means: Tensor
    stds: Tensor

    def __init__(self, means: Tensor, stds: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means.detach().clone())
        self.register_buffer("stds", stds.detach().clone().expand_as(means).contiguous())

    def log_prob(self, weights: Tensor) -> Tensor:
        """Returns the log density of each row of weights `[N, D]`, `[N]` nats."""
        squares = ((weights - self.means) / self.stds).square()
        return -0.5 * (squares + 2 * self.stds.log() + math.log(2 * math.pi)).sum(1)

    def expected_log_prob(self, posterior: Posterior, draw: Tensor) -> Tensor:
        """Returns E_q log p of each row, `[N]` nats: in closed form where q is normal, else at the draw `[N, D]`."""
        normal = posterior.normal()
        if normal is None:
            return self.log_prob(draw)
        spread = (normal.log_variances.exp() / self.stds.square()).sum(1)
        return self.log_prob(normal.means) - 0.5 * spread
