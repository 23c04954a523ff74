"""The network that learns the target, before it has weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.networks.factory import NetworkOptions, build_network, without_deep_supervision
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class TargetNetwork:
    """The network that learns the target: one output, without deep supervision; `classes` include the background."""

    options: NetworkOptions
    channels: int
    classes: int

    @classmethod
    def of(cls, options: NetworkOptions, case: CachedCase) -> TargetNetwork:
        """The network for the channels and classes of a case."""
        return cls(options, case.channels, len(case.classes) + 1)

    def build(self, seed: int) -> torch.nn.Module:
        """Builds it with random weights."""
        return build_network(without_deep_supervision(self.options), self.channels, self.classes, seed)
