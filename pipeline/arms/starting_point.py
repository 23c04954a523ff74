"""Where an arm starts (random weights, draws from the prior, or a source network) and which parameters it learns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from data.errors import ModelError
from models.filters import FilterLayer, FilterPositions, filter_layers, filter_positions, set_filters
from models.networks.factory import decoder_parameters, end_blocks, last_block
from models.objectives import FilterGroups
from models.priors.displacement import Displacement
from models.priors.prior import FilterPrior
from pipeline.arms.choices import Spared, Trainable

Groups = Mapping[str, Sequence[FilterLayer]]

# Beyond every real input channel, so that a prior that knows positions finds none there.
_NO_SUCH_CHANNEL = 1 << 19


def start_from_prior(
    network: torch.nn.Module, priors: Mapping[str, FilterPrior], groups: Groups, generator: torch.Generator
) -> None:
    """Replaces every 3×3×3 filter that has a prior by a draw from it."""
    layers = filter_layers(network)
    drawn: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for group, members in own_groups(groups, layers).items():
            where = target_positions(members, layers, _changed(groups[group], members))
            drawn |= set_filters(priors[group].sample(where, generator), members)
    network.load_state_dict(drawn, strict=False)


def mean_state(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Averages the weights of networks whose channels correspond; counts are those of the first one."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }


def centre_on_start(priors: Mapping[str, FilterPrior], groups: FilterGroups, filters: torch.Tensor) -> None:
    """Centres the densities of changes on the learned filters `[F, 27]` of a start.

    Those that do not fit the source have nothing that a change of the source's could be compared with.
    """
    for name, prior in priors.items():
        if isinstance(prior, Displacement) and name in groups.rows:
            where = groups.positions[name]
            fitting = torch.nonzero(where.in_index < _NO_SUCH_CHANNEL).squeeze(1)
            prior.centre_on(filters[groups.rows[name][fitting]], where[fitting])


def own_groups(groups: Groups, layers: Sequence[FilterLayer]) -> dict[str, list[FilterLayer]]:
    """The groups of the source network as layers of another network, by name; groups without any are left out.

    The channels may differ (a stem with another number of image channels): a prior that does not depend on positions
    applies all the same.
    """
    by_name = {layer.parameter: layer for layer in layers}
    own = {
        name: [by_name[layer.parameter] for layer in members if layer.parameter in by_name]
        for name, members in groups.items()
    }
    return {name: members for name, members in own.items() if members}


def _changed(source: Sequence[FilterLayer], target: Sequence[FilterLayer]) -> set[str]:
    return {layer.parameter for layer in target if layer not in source}


def target_positions(
    members: Sequence[FilterLayer], layers: Sequence[FilterLayer], changed: Collection[str]
) -> FilterPositions:
    """Positions of filters in the target network, for priors that were fitted on the source network.

    Channels of a layer that does not fit the source do not correspond to the source's channels. Such a layer gets
    positions that the source does not have, where a prior that knows positions falls back to the pooled filters.
    """
    where = filter_positions(members, layers)
    numbers = [number for number, layer in enumerate(layers) if layer.parameter in changed]
    moved = torch.isin(where.layer, torch.tensor(numbers, dtype=where.layer.dtype))
    return replace(where, in_index=where.in_index + _NO_SUCH_CHANNEL * moved)


def learned_groups(
    groups: Groups, learned: Sequence[FilterLayer], layers: Sequence[FilterLayer], spared: Collection[str] = ()
) -> FilterGroups:
    """The groups of the learned filters: rows count among these, positions in the whole network.

    The parameters `spared` are in no group.
    """
    kept = own_groups(groups, [layer for layer in learned if layer.parameter not in spared])
    positions = {
        name: target_positions(members, layers, _changed(groups[name], members)) for name, members in kept.items()
    }
    rows = FilterGroups.of(kept, learned)
    return FilterGroups(rows.rows, positions, rows.count)


def learned_names(network: torch.nn.Module, trainable: Trainable) -> set[str]:
    """Names of the parameters that an arm learns.

    Raises:
        ModelError: the network has no such part.
    """
    if trainable is Trainable.ALL:
        return {name for name, _ in network.named_parameters()}
    learned = set(end_blocks(network) if trainable is Trainable.ENDS else decoder_parameters(network))
    if not learned:
        raise ModelError(
            f"the network has nothing that `trainable: {trainable.value}` would learn",
            expected="a network with separate blocks at its ends and a level coarser than the image",
            fix="set `trainable: all` for this arm",
        )
    return learned


def spared_names(network: torch.nn.Module, spared: Spared) -> set[str]:
    """Names of the parameters that no fitted prior pulls on."""
    return set(last_block(network)) if spared is Spared.LAST_BLOCK else set()


def choose_trainable(network: torch.nn.Module, trainable: Trainable) -> None:
    """Freezes the parameters that the arm does not learn."""
    learned = learned_names(network, trainable)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in learned)


def learned_layers(network: torch.nn.Module) -> tuple[FilterLayer, ...]:
    """The layers whose filters the arm learns, in the order of the network."""
    learned = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    return tuple(layer for layer in filter_layers(network) if layer.parameter in learned)
