"""Where an arm starts: random weights, filters drawn from the prior, or a source network; and what of it is learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from models.filters import FilterLayer, filter_layers, filter_positions, set_filters
from models.networks.factory import decoder_parameters, end_blocks
from models.priors.prior import FilterPrior
from pipeline.arms.choices import Trainable

logger = logging.getLogger(__name__)

Groups = Mapping[str, Sequence[FilterLayer]]


def start_from_source(network: torch.nn.Module, source: Mapping[str, torch.Tensor]) -> list[str]:
    """Copies the weights of a source network where they fit.

    Returns:
        names of the parameters that do not fit (another number of channels or classes) and keep their random start.
    """
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in source.items() if name in own and own[name].shape == tensor.shape}
    anew = [name for name in own if name not in fitting]
    network.load_state_dict(fitting, strict=False)
    if anew:
        logger.info("started anew, because channels or classes differ from the source network: %s", ", ".join(anew))
    return anew


def start_from_prior(
    network: torch.nn.Module, priors: Mapping[str, FilterPrior], groups: Groups, generator: torch.Generator
) -> None:
    """Replaces every 3×3×3 filter that has a prior by a draw from it."""
    layers = filter_layers(network)
    drawn: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for group, members in groups.items():
            filters = priors[group].sample(filter_positions(members, layers), generator)
            drawn |= set_filters(filters, members)
    network.load_state_dict(drawn, strict=False)


def choose_trainable(network: torch.nn.Module, trainable: Trainable) -> None:
    """Freezes what the arm does not learn."""
    if trainable is Trainable.ALL:
        return
    learned = set(end_blocks(network) if trainable is Trainable.ENDS else decoder_parameters(network))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in learned)


def learned_layers(network: torch.nn.Module) -> tuple[FilterLayer, ...]:
    """The layers whose filters the arm learns, in the order of the network."""
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    return tuple(layer for layer in filter_layers(network) if layer.parameter in learned)
