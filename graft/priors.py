"""Filter priors for any network: densities over its 3×3×3 convolution filters, fitted in one line.

    prior = graft.priors.fit([network_1, network_2], "vae")
    prior.log_prob(network_3)       # how plausible are the filters of another network?
    prior.initialise(network_4)     # start from filters drawn from the prior

    changes = graft.priors.fit([network_1, network_2], {"kind": "displacement"}, starts=[start_1, start_2])
    changes.centre_on(network_3)    # how plausible is what training makes of this one?

Which filters share a density is the grouping: `all` (one density; the default for a network that Graft did not make),
`layer` (one for each layer), `resolution` (one for each resolution of features; it needs an `example` of the network's
input) and `consecutive` (the published grouping; the default for networks that Graft made, and only for
these).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from data.errors import ConfigError, ModelError
from data.option_faults import fault_at
from models.filter_bank import FilterBank, SourceState
from models.filters import (
    FilterGrouping,
    FilterLayer,
    FilterPositions,
    filter_layers,
    filter_positions,
    get_filters,
    group_layers,
    set_filters,
)
from models.networks.factory import NetworkRecord
from models.priors.displacement import Displacement
from models.priors.factory import PriorOptions, fit_prior, network_of
from models.priors.prior import FilterPrior, FitReport

__all__ = ["FittedPrior", "fit"]


@dataclass(frozen=True)
class FittedPrior:
    """Densities over the filters of a network, one for each group of layers.

    Attributes:
        grouping: `all`, `layer`, `resolution` or `consecutive`.
        groups: group → its layers.
        densities: group → its density, a torch module.
        reports: group → how its fit went.
        network_layers: all layers with 3×3×3 filters, in the network's order.
    """

    grouping: str
    groups: dict[str, tuple[FilterLayer, ...]]
    densities: dict[str, FilterPrior]
    reports: dict[str, FitReport]
    network_layers: tuple[FilterLayer, ...]

    def groups_of(self, network: nn.Module) -> dict[str, tuple[FilterLayer, ...]]:
        """Returns the layers of a network by the group whose density they have.

        A density for all layers fits any network. Other densities go by the names of layers, whose numbers of channels
        may differ (a stem for another number of image channels) unless the density knows positions.

        Raises:
            ModelError: a layer of the network has no density, or one that depends on other positions.
        """
        layers = filter_layers(network)
        if layers == self.network_layers:
            return self.groups
        positions = any(density.needs_positions for density in self.densities.values())
        if self.grouping == FilterGrouping.ALL and layers and not positions:
            return dict.fromkeys(self.groups, layers)
        homes = {layer.parameter: group for group, members in self.groups.items() for layer in members}
        foreign = [layer for layer in layers if layer.parameter not in homes]
        if foreign or not layers or positions:
            differing = foreign or sorted(set(layers) ^ set(self.network_layers), key=lambda layer: layer.parameter)
            raise ModelError(
                f"the prior was fitted to other layers than the network, which has {len(layers)} with 3×3×3 filters"
                + (f", {differing[0].parameter} among them" if layers else ""),
                expected="the layers of the networks that it was fitted to",
                fix="fit a prior with grouping='all' and no positions, which suits any network",
            )
        groups = {group: tuple(layer for layer in layers if homes[layer.parameter] == group) for group in self.groups}
        return {group: members for group, members in groups.items() if members}

    def centre_on(self, network: nn.Module) -> FittedPrior:
        """Centres densities of changes on the filters of a network, as the start of what is scored or drawn after it.

        Returns:
            The same prior; other densities have no start.

        Raises:
            ModelError: a layer of the network has no density.
        """
        state = dict(network.named_parameters())
        for group, layers in self.groups_of(network).items():
            density = self.densities[group]
            if isinstance(density, Displacement):
                density.centre_on(get_filters(state, layers), filter_positions(layers, filter_layers(network)))
        return self

    def log_prob(self, network: nn.Module, samples: int = 1, seed: int = 0) -> dict[str, Tensor]:
        """Scores the filters of a network.

        Args:
            network: whose filters are scored.
            samples: latent draws of densities that are bounds (VAE).
            seed: of these draws.

        Returns:
            group → `[F]`, nats per filter, in the order of `models.filters.get_filters`; a lower bound for a VAE.

        Raises:
            ModelError: a layer of the network has no density.
        """
        state, generator = dict(network.named_parameters()), torch.Generator().manual_seed(seed)
        scores = {}
        for group, layers in self.groups_of(network).items():
            where = filter_positions(layers, filter_layers(network))
            filters = get_filters(state, layers).detach().to("cpu", torch.float32)
            with torch.no_grad():
                scores[group] = self.densities[group].log_prob(filters, where, samples, generator)
        return scores

    def sample(self, network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
        """Draws filters for all layers of a network.

        Args:
            network: whose layers they are for; it stays as it is.
            seed: of the draw.

        Returns:
            parameter name → weight, for `network.load_state_dict(…, strict=False)`.

        Raises:
            ModelError: a layer of the network has no density.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn: dict[str, Tensor] = {}
        for group, layers in self.groups_of(network).items():
            where = filter_positions(layers, filter_layers(network))
            with torch.no_grad():
                drawn |= set_filters(self.densities[group].sample(where, generator), layers)
        return drawn

    def initialise(self, network: nn.Module, seed: int = 0) -> nn.Module:
        """Replaces the filters of a network by drawn ones, and returns it.

        Raises:
            ModelError: a layer of the network has no density.
        """
        network.load_state_dict(self.sample(network, seed), strict=False)
        return network


def fit(
    networks: nn.Module | Sequence[nn.Module],
    density: str | Mapping[str, Any] = "gaussian",
    *,
    grouping: str | None = None,
    example: Tensor | None = None,
    starts: nn.Module | Sequence[nn.Module] | None = None,
    seed: int = 0,
) -> FittedPrior:
    """Fits a density to the 3×3×3 filters of every group of layers.

    Args:
        networks: one network, or several of one architecture; any torch module will do.
        density: `gaussian`, `gaussian_mixture`, `vae`, `spike_and_slab`, `reuse_or_redraw` or `displacement`, or a
            mapping with `kind` and settings, as under `priors.densities.NAME` in a configuration. One with `centre:
            source_position` needs `relative_std`, because networks without snapshots do not show the spread.
        grouping: which layers share a density, see above.
        example: `[N, C, X, Y, Z]`, an input of a network that Graft did not make.
        starts: the networks before training, one for each or a trunk that all branch from; densities of changes and
            Gaussians with `centre: branches` need them.
        seed: of all randomness.

    Raises:
        ConfigError: the density, a setting or the grouping is unknown.
        ModelError: the networks have no 3×3×3 filters or differ in their layers, or the density needs other starts.
    """
    given = [networks] if isinstance(networks, nn.Module) else list(networks)
    if not given:
        raise ModelError("there is no network to take filters from", expected="one or more", fix="give one")
    options, rule = _density(density), _grouping(given[0], grouping, example)
    layers, groups = filter_layers(given[0]), group_layers(given[0], rule, example)
    densities, reports = {}, {}
    generator = torch.Generator().manual_seed(seed)
    for group, members in groups.items():
        where = filter_positions(members, layers)
        bank = _bank(given, members, where)
        if starts is not None:
            before = [starts] * len(given) if isinstance(starts, nn.Module) else list(starts)
            bank = bank.with_starts(_bank(before, members, where))
        centre = network_of(options)
        densities[group], reports[group] = fit_prior(
            options, bank, None if centre is None else bank.of_network(centre), generator
        )
    return FittedPrior(rule.value, groups, densities, reports, layers)


def _bank(networks: Sequence[nn.Module], layers: Sequence[FilterLayer], where: FilterPositions) -> FilterBank:
    states = [SourceState(number, 0, network.state_dict()) for number, network in enumerate(networks)]
    return FilterBank.concatenate([FilterBank.from_state(state, layers, where) for state in states])


def _density(density: str | Mapping[str, Any]) -> PriorOptions:
    raw = {"kind": density} if isinstance(density, str) else dict(density)
    adapter: TypeAdapter[PriorOptions] = TypeAdapter(PriorOptions)
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        raise ConfigError(
            f"density: {fault_at(error)}",
            expected="a density of the configuration reference, with its settings",
            fix="see docs/reference/config.md",
        ) from error


def _grouping(network: nn.Module, grouping: str | None, example: Tensor | None) -> FilterGrouping:
    made_here = isinstance(getattr(network, "graft_record", None), NetworkRecord)
    known = [rule.value for rule in FilterGrouping if made_here or rule is not FilterGrouping.CONSECUTIVE]
    if grouping is None:
        return FilterGrouping.CONSECUTIVE if made_here else FilterGrouping.ALL
    if grouping not in known:
        raise ConfigError(
            f"the grouping {grouping!r} is unknown for this network",
            expected=f"one of {', '.join(known)}",
            fix="name one",
        )
    if grouping == FilterGrouping.RESOLUTION.value and not made_here and example is None:
        raise ConfigError(
            "the grouping 'resolution' of a network that Graft did not make",
            expected="an example of its input",
            fix="add `example=torch.zeros(1, CHANNELS, 64, 64, 64)`",
        )
    return FilterGrouping(grouping)
