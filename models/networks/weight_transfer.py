"""Weights of one network as the start of another, as far as names and shapes agree."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

logger = logging.getLogger(__name__)


def start_from_source(network: torch.nn.Module, source: Mapping[str, torch.Tensor]) -> list[str]:
    """Copies the weights of a source network where they fit.

    Returns:
        Names of the parameters that do not fit (another number of channels or classes) and keep their random start.
    """
    fitting, anew = fitting_weights(network.state_dict(), source)
    network.load_state_dict(fitting, strict=False)
    if anew:
        logger.info("reinitialised, because channels or classes differ from the source network: %s", ", ".join(anew))
    return anew


def fitting_weights(
    own: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Returns the source's tensors that fit a network, and the names of the network's tensors that nothing fits."""
    fitting = {name: tensor for name, tensor in source.items() if name in own and own[name].shape == tensor.shape}
    return fitting, [name for name in own if name not in fitting]
