"""Averaging predictions over draws, as running moments, so that memory does not grow with the number of draws."""

from __future__ import annotations

import torch

_SMALLEST = 1e-12


def entropy(probability: torch.Tensor) -> torch.Tensor:
    """Entropy in nats over the classes in dimension 0."""
    return -(probability * probability.clamp_min(_SMALLEST).log()).sum(dim=0)


class PosteriorAverage:
    """Mean probability, predictive entropy and mutual information of draws (Depeweg et al. 2018, eq. 4)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: torch.Tensor | None = None
        self._entropy: torch.Tensor | None = None

    def add(self, probability: torch.Tensor) -> None:
        """Adds one draw's probabilities `[K + 1, X, Y, Z]`."""
        self._count += 1
        if self._mean is None or self._entropy is None:
            self._mean, self._entropy = probability.clone(), entropy(probability)
        else:
            self._mean += (probability - self._mean) / self._count
            self._entropy += (entropy(probability) - self._entropy) / self._count

    @property
    def count(self) -> int:
        """Number of draws so far."""
        return self._count

    @property
    def probability(self) -> torch.Tensor:
        """`[K + 1, X, Y, Z]` mean over the draws."""
        if self._mean is None:
            raise ValueError("no draw was added yet")
        return self._mean

    @property
    def predictive_entropy(self) -> torch.Tensor:
        """`[X, Y, Z]` entropy of the mean, in nats: all the uncertainty there is."""
        return entropy(self.probability)

    @property
    def mutual_information(self) -> torch.Tensor:
        """`[X, Y, Z]` entropy of the mean minus mean entropy, in nats: what is due to not knowing the weights."""
        if self._entropy is None:
            raise ValueError("no draw was added yet")
        return (self.predictive_entropy - self._entropy).clamp_min(0.0)
