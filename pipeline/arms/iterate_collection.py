"""Collecting the iterates of a training for SWAG, at a constant rate in its second part (Maddox et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.bayesian_network import BayesianNetwork
from models.other_weights import OtherWeights
from models.posteriors.swag import SWAG, SWAGOptions, first_collected
from pipeline.arms.choices import ArmOptions
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.training.schedule import cosine_cycles


class IterateCollection:
    """Collects the iterates of a point estimate during training and turns them into a Gaussian.

    Weights that are not filters are averaged over the same iterates, or get their own Gaussian where the arm asks for
    it (its low-rank directions are drawn independently of the filters').
    """

    def __init__(self, options: SWAGOptions, model: BayesianNetwork, steps: int) -> None:
        self._options = options
        self._model = model
        self._first = first_collected(options, steps)
        self._every = max((steps - self._first) // options.collections, 1)
        self._filters = self._empty(model.posterior.mean())
        self._others = None if model.others is None else self._empty(model.others.posterior(0).mean())
        self._averages = nn.ParameterList(torch.zeros_like(p) for p in model.point_parameters()).requires_grad_(False)

    def _empty(self, start: Tensor) -> SWAG:
        return SWAG(len(start), self._options.rank, self._options.scale, start.shape[1]).to(start.device)

    def modules(self) -> dict[str, nn.Module]:
        """What it has collected, for checkpoints."""
        parts = {"filters": self._filters, "others": self._others, "averages": self._averages}
        return {f"iterates.{name}": part for name, part in parts.items() if part is not None}

    def rate(self, arm: ArmOptions, options: TargetTrainingOptions) -> Callable[[int], float]:
        """The learning rate: the schedule of the other arms, but only down to the constant rate of the second part."""
        constant = self._options.rate * arm.peak_rate
        warm_up = min(round(arm.warm_up * options.steps), self._first)

        def of_step(step: int) -> float:
            if step >= self._first:
                return constant
            return cosine_cycles(step, cycle=self._first, peak=arm.peak_rate, floor=constant, warm_up=warm_up)

        return of_step

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Collects the weights after a step (from 0), if they are due."""
        if step < self._first or (step - self._first + 1) % self._every:
            return
        self._filters.collect(self._model.posterior.mean())
        if self._others is not None and self._model.others is not None:
            self._others.collect(self._model.others.posterior(0).mean())
        number = int(self._filters.collected)
        for average, parameter in zip(self._averages, self._model.point_parameters(), strict=True):
            average += (parameter - average) / number

    @torch.no_grad()
    def network(self) -> BayesianNetwork:
        """Returns the network with the Gaussian of its iterates."""
        for average, parameter in zip(self._averages, self._model.point_parameters(), strict=True):
            parameter.copy_(average)
        own = self._model.others
        others = None if own is None or self._others is None else OtherWeights(own.layout, [self._others])
        return BayesianNetwork(self._model.network, self._filters, self._model.layers, others)
