"""The network that learns the target, before it has weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from models.heads import Heads
from models.networks.factory import NetworkOptions, build_network, without_deep_supervision
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class TargetNetwork:
    """The network that learns the target: one output, without deep supervision.

    Attributes:
        options: of the network.
        channels: of the image.
        outputs: channels of the output.
        heads: what they stand for.
    """

    options: NetworkOptions
    channels: int
    outputs: int
    heads: Heads = Heads.EXCLUSIVE

    @classmethod
    def of(cls, options: NetworkOptions, case: CachedCase) -> TargetNetwork:
        """The network for the channels and classes of a case."""
        return cls(options, case.channels, case.heads.outputs(len(case.classes)), case.heads)

    def build(self, seed: int) -> torch.nn.Module:
        """Builds it with random weights."""
        return build_network(without_deep_supervision(self.options), self.channels, self.outputs, seed)
