"""A normal distribution over features, and how far from it others lie: the Mahalanobis distance.

There are more features than scans, so the covariance is shrunk towards a multiple of the identity by as much as is
best for that many scans (Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
Journal of Multivariate Analysis 2004). The distance of features as a sign of unfamiliar inputs: Lee et al., "A simple
unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureGaussian:
    """The distribution.

    Attributes:
        mean: `[F]`.
        precision: `[F, F]`, the inverse covariance.
    """

    mean: Tensor
    precision: Tensor

    @classmethod
    def fit(cls, rows: Tensor) -> FeatureGaussian:
        """Fits it to features `[N, F]` of at least two scans or positions."""
        from sklearn.covariance import LedoitWolf

        estimate = LedoitWolf().fit(rows.double().cpu().numpy())
        return cls(torch.from_numpy(estimate.location_).float(), torch.from_numpy(estimate.precision_).float())

    def distance(self, rows: Tensor) -> Tensor:
        """Returns the Mahalanobis distance of features `[N, F]`, `[N]`."""
        away = rows.float() - self.mean.to(rows.device)
        squared = ((away @ self.precision.to(rows.device)) * away).sum(1)
        return squared.clamp_min(0).sqrt()

    def to_tensors(self, name: str) -> dict[str, Tensor]:
        """Returns its numbers under names that begin with `name`."""
        return {f"{name}.mean": self.mean, f"{name}.precision": self.precision}

    @classmethod
    def from_tensors(cls, name: str, tensors: Mapping[str, Tensor]) -> FeatureGaussian:
        """Rebuilds it from `to_tensors`.

        Raises:
            KeyError: a tensor is missing.
        """
        return cls(tensors[f"{name}.mean"], tensors[f"{name}.precision"])


def leave_one_out_distances(rows: Tensor, groups: list[str]) -> list[float]:
    """Returns the distance of each scan from a fit to those of other groups.

    Args:
        rows: `[N, F]`.
        groups: of each row, such as patients: two scans of one patient are alike.
    """
    found = [0.0] * len(rows)
    for group in dict.fromkeys(groups):
        mine = torch.tensor([own == group for own in groups])
        distances = FeatureGaussian.fit(rows[~mine]).distance(rows[mine])
        for position, distance in zip(torch.nonzero(mine).flatten().tolist(), distances.tolist(), strict=True):
            found[position] = distance
    return found
