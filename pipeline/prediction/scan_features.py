"""What a network has made of a scan at its coarsest level, gathered over the windows of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.feature_gaussian import FeatureGaussian
from models.networks.bottleneck import watched_features
from pipeline.prediction.scan_prediction import Forward
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits

_POSITIONS = 500
"""Positions of a scan that are kept for a fit; neighbours are alike."""


@dataclass(frozen=True)
class ScanFeatures:
    """The features of a scan.

    Attributes:
        pooled: `[2 F]`, their mean and standard deviation over the patient's content.
        positions: `[P, F]`, those at some positions of the content.
        distances: `[X, Y, Z]`, distance of the features at each position from a distribution, where one was given.
    """

    pooled: Tensor
    positions: Tensor
    distances: Tensor | None


class Moments:
    """Weighted mean and standard deviation of rows that come in parts."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._weight = 0.0

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """Adds rows `[N, F]` with their weights `[N]`."""
        values, weight = rows.double(), weights.double()
        first, second = weight @ values, weight @ values.square()
        self._first = first if self._first is None else self._first + first
        self._second = second if self._second is None else self._second + second
        self._weight += float(weight.sum())

    def pooled(self) -> Tensor:
        """Returns mean and standard deviation, `[2 F]` float32 on the CPU, of at least one row."""
        if self._first is None or self._second is None:
            raise ValueError("there are no rows to pool")
        mean = self._first / self._weight
        deviation = (self._second / self._weight - mean.square()).clamp_min(0).sqrt()
        return torch.cat([mean, deviation]).float().cpu()


def scan_features(
    network: nn.Module,
    forward: Forward,
    module: str,
    image: Tensor,
    content: Tensor,
    patch: Sequence[int],
    window: SlidingWindowOptions,
    distribution: FeatureGaussian | None = None,
) -> ScanFeatures:
    """Runs a network over a scan and looks at the output of one of its modules.

    Args:
        network: that holds the module.
        forward: calls it with weights.
        module: name of the module.
        image: `[C, X, Y, Z]`, on the device of the network.
        content: `[X, Y, Z]` bool, where there is something of the patient; all of it if it is empty.
        patch: size of the window.
        window: how it moves.
        distribution: of features at single positions, for a map of their distances.
    """
    inside = (content if content.any() else torch.ones_like(content)).to(image)
    moments = Moments()
    positions: list[Tensor] = []
    with watched_features(network, module) as latest:

        def look(windows: Tensor) -> Tensor:
            forward(windows[:, :-1])
            features = latest[0].float()
            # How much of each position is content, which moves with the windows as one more channel.
            x, y, z = features.shape[2:]
            share = functional.adaptive_avg_pool3d(windows[:, -1:], (x, y, z)).flatten()
            rows = features.movedim(1, -1).flatten(0, 3)
            moments.add(rows, share)
            positions.append(rows[share > 0.5].cpu())
            if distribution is None:
                return windows[:, :1]
            distances = distribution.distance(rows).reshape(len(features), 1, x, y, z)
            return functional.interpolate(distances, size=windows.shape[2:], mode="trilinear", align_corners=False)

        with torch.inference_mode():
            stitched = predict_logits(look, torch.cat([image, inside[None]]), patch, window)
    found = torch.cat(positions)
    kept = torch.linspace(0, max(len(found) - 1, 0), min(_POSITIONS, len(found))).round().long()
    return ScanFeatures(moments.pooled(), found[kept].clone(), None if distribution is None else stitched[0].cpu())
