"""The mean of a student's weights over the last part of its training (Izmailov et al. 2018)."""

from __future__ import annotations

import torch
from torch import nn

from models.bayesian_network import BayesianNetwork


class WeightAverage:
    """Averages all learned numbers of a member, of a posterior its means and log-variances, over the last steps.

    Args:
        model: network and posterior.
        share: of the steps after which the average begins.
        steps: of the training.
    """

    def __init__(self, model: BayesianNetwork, share: float, steps: int) -> None:
        self._learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._first = min(int(share * steps), steps - 1)
        self._means = nn.ParameterList(torch.zeros_like(own) for own in self._learned).requires_grad_(False)
        self._number = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    def modules(self) -> dict[str, nn.Module]:
        """What it has averaged, for checkpoints."""
        return {"average.means": self._means, "average.count": nn.ParameterList([self._number])}

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Adds the weights after a step (from 0), once the average has begun."""
        if step < self._first:
            return
        self._number.add_(1)
        for mean, own in zip(self._means, self._learned, strict=True):
            mean.add_((own - mean) / int(self._number))

    @torch.no_grad()
    def apply(self) -> None:
        """Gives the member the mean."""
        for mean, own in zip(self._means, self._learned, strict=True):
            own.copy_(mean)
