"""Averages over draws as running moments, so that memory does not grow with the number of draws."""

from __future__ import annotations

import torch

from models.heads import Heads
from pipeline.prediction.slabs import slabs
from pipeline.prediction.temperature import read_probability

_SMALLEST = 1e-12


def entropy(probability: torch.Tensor, heads: Heads = Heads.EXCLUSIVE) -> torch.Tensor:
    """Entropy in nats over the classes in dimension 0; of overlapping structures, the sum of their entropies."""
    probability = heads.alternatives(probability)
    return -(probability * probability.clamp_min(_SMALLEST).log()).sum(dim=0)


class PosteriorAverage:
    """Mean probability, predictive entropy, mutual information (Depeweg et al. 2018, eq. 4) and deviation of draws.

    All moments are updated in place, slab by slab; apart from them, a draw needs only its own probabilities.

    Args:
        heads: what the channels of the probabilities stand for.
    """

    def __init__(self, heads: Heads = Heads.EXCLUSIVE) -> None:
        self.heads = heads
        self._count = 0
        self._mean: torch.Tensor | None = None
        self._entropy: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._information: torch.Tensor | None = None

    def add(self, probability: torch.Tensor, *, keep: bool = True) -> None:
        """Adds one draw's probabilities `[C, X, Y, Z]`.

        Args:
            probability: of one draw.
            keep: whether the caller still needs the tensor; if not, the mean takes over the first draw's memory.
        """
        self._count += 1
        if self._mean is None or self._entropy is None:
            self._mean = probability.clone() if keep else probability
            self._entropy = _entropy_map(probability, self.heads)
            return
        if self._squares is None:
            self._squares = torch.zeros_like(self._entropy)
        for slab in slabs(self._entropy.shape):
            part = probability[:, slab]
            change = part - self._mean[:, slab]
            # Welford 1962: the increment of the sum of squared deviations.
            for own in change[:1] if self.heads is Heads.EXCLUSIVE else change:
                self._squares[slab].addcmul_(own, own, value=(self._count - 1) / self._count)
            self._mean[:, slab].add_(change, alpha=1 / self._count)
            self._entropy[slab].add_(entropy(part, self.heads) - self._entropy[slab], alpha=1 / self._count)

    def read(self, temperature: float) -> None:
        """Reads the mean with temperature T, in place, after all draws were added (`read_probability`).

        The predictive entropy follows; mutual information and deviation remain those of the draws.
        """
        mean = self.probability
        if self._count > 1:
            self._information = self.mutual_information
        # Tensors made in inference mode cannot be changed outside of it.
        with torch.inference_mode():
            for slab in slabs(mean.shape[1:]):
                mean[:, slab] = read_probability(mean[:, slab], temperature, self.heads)

    @property
    def count(self) -> int:
        """Number of draws so far."""
        return self._count

    @property
    def probability(self) -> torch.Tensor:
        """`[C, X, Y, Z]` mean over the draws."""
        if self._mean is None:
            raise ValueError("no draw was added yet")
        return self._mean

    @property
    def predictive_entropy(self) -> torch.Tensor:
        """`[X, Y, Z]` entropy of the mean, in nats: the total uncertainty."""
        return _entropy_map(self.probability, self.heads)

    @property
    def mutual_information(self) -> torch.Tensor:
        """`[X, Y, Z]` entropy of the mean minus mean entropy, in nats: the uncertainty about the weights."""
        if self._entropy is None:
            raise ValueError("no draw was added yet")
        if self._information is not None:
            return self._information.clone()
        return self.predictive_entropy.sub_(self._entropy).clamp_min_(0.0)

    @property
    def standard_deviation(self) -> torch.Tensor:
        """`[X, Y, Z]` deviation over the draws of the probability of any foreground class (divisor S − 1).

        Of overlapping structures: the root of the sum of their variances.
        """
        if self._squares is None:
            raise ValueError("a standard deviation needs two draws")
        return (self._squares / (self._count - 1)).sqrt_()


def _entropy_map(probability: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Entropy of `[C, X, Y, Z]` with small temporaries."""
    result = torch.empty_like(probability[0])
    for slab in slabs(result.shape):
        result[slab] = entropy(probability[:, slab], heads)
    return result
