"""The 3×3×3 filters of a network as one matrix, and the groups of layers that share a prior.

A filter is one 3×3×3 kernel: the 27 numbers that join one input channel to one output channel of a `Conv3d` or a
`ConvTranspose3d`. A transposed convolution acts as a convolution with the mirrored kernel, and that is its filter:
those of both kinds can be pooled. `get_filters` and `set_filters` are exact inverses and differentiable; everything
that knows distributions works on the matrix `[F, 27]` alone, all that knows networks on the parameters alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.networks.factory import decoder_parameters, resolution_levels, stem_parameters

KERNEL_SHAPE = (3, 3, 3)
KERNEL_VOXELS = 27


@dataclass(frozen=True)
class FilterLayer:
    """A convolution layer with 3×3×3 kernels.

    Attributes:
        parameter: name of its weight in the network's state dict.
        in_channels: input channels of a filter (of one group, for a grouped convolution).
        out_channels: output channels.
        transposed: whether it is a `ConvTranspose3d`, whose weight is stored input channel first.
    """

    parameter: str
    in_channels: int
    out_channels: int
    transposed: bool

    @property
    def count(self) -> int:
        """Number of filters."""
        return self.in_channels * self.out_channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight in the state dict."""
        channels = (self.in_channels, self.out_channels) if self.transposed else (self.out_channels, self.in_channels)
        return (*channels, *KERNEL_SHAPE)


class FilterGrouping(StrEnum):
    """Which layers share one filter prior."""

    LAYER = "layer"
    """Every layer by itself."""
    CONSECUTIVE = "consecutive"
    """Encoder layers of one input width, and each decoder level: the published grouping, 7 groups in its network."""
    RESOLUTION = "resolution"
    """All layers that output features of one resolution, in encoder and decoder."""
    ALL = "all"
    """All layers of the network together."""


@dataclass(frozen=True)
class FilterPositions:
    """Where filters sit in a network.

    Attributes:
        layer: `[F]` int64, index of the layer in `filter_layers(network)`.
        out_index: `[F]` int64, output channel.
        in_index: `[F]` int64, input channel.
    """

    layer: Tensor
    out_index: Tensor
    in_index: Tensor

    def __len__(self) -> int:
        return int(self.layer.shape[0])

    def __getitem__(self, rows: Tensor | slice) -> FilterPositions:
        return FilterPositions(self.layer[rows], self.out_index[rows], self.in_index[rows])

    def to(self, device: torch.device | str) -> FilterPositions:
        """Returns the positions on another device."""
        return FilterPositions(self.layer.to(device), self.out_index.to(device), self.in_index.to(device))

    def keys(self) -> Tensor:
        """Returns one integer for each position, `[F]` int64, ordered as layer, out, in."""
        return (self.layer << 40) | (self.out_index << 20) | self.in_index


def filter_layers(network: nn.Module) -> tuple[FilterLayer, ...]:
    """Finds every layer with 3×3×3 kernels, in the order of the network's modules."""
    layers = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and tuple(module.kernel_size) == KERNEL_SHAPE:
            transposed = isinstance(module, nn.ConvTranspose3d)
            first, second = module.weight.shape[:2]
            in_channels, out_channels = (first, second) if transposed else (second, first)
            layers.append(FilterLayer(f"{name}.weight" if name else "weight", in_channels, out_channels, transposed))
    return tuple(layers)


def get_filters(parameters: Mapping[str, Tensor], layers: Sequence[FilterLayer]) -> Tensor:
    """Collects the filters of layers out of a state dict.

    Args:
        parameters: state dict, or `dict(network.named_parameters())` to keep gradients.
        layers: the layers to collect.

    Returns:
        `[F, 27]`, ordered by layer, output channel, input channel, as a convolution applies them: the stored kernels of
        transposed convolutions are mirrored.

    Raises:
        ModelError: if a layer is missing or its kernels are not 3×3×3.
    """
    rows = []
    for layer in layers:
        weight = parameters.get(layer.parameter)
        if weight is None:
            raise ModelError(
                f"the network has no parameter '{layer.parameter}'",
                expected="the state of a network of the same configuration",
                fix="use the source networks and the target network of one 'network' section",
            )
        if tuple(weight.shape) != layer.weight_shape:
            raise ModelError(
                f"the parameter '{layer.parameter}' has shape {tuple(weight.shape)}",
                expected=f"{layer.weight_shape}",
                fix="use networks with the same kernel size, channels and classes, or leave this layer out",
            )
        by_output = weight.transpose(0, 1) if layer.transposed else weight
        rows.append(_mirrored(by_output.reshape(-1, KERNEL_VOXELS), layer))
    if not rows:
        return torch.zeros(0, KERNEL_VOXELS)
    return torch.cat(rows)


def set_filters(filters: Tensor, layers: Sequence[FilterLayer]) -> dict[str, Tensor]:
    """Puts filters back into the shapes of the layers' weights; the inverse of `get_filters`.

    Args:
        filters: `[F, 27]`, ordered by layer, output channel, input channel.
        layers: the layers they belong to.

    Returns:
        Weights by parameter name, views of `filters` where memory order allows.

    Raises:
        ModelError: if the number of filters is not that of the layers.
    """
    count = sum(layer.count for layer in layers)
    if tuple(filters.shape) != (count, KERNEL_VOXELS):
        raise ModelError(
            f"filters of shape {tuple(filters.shape)} do not fit layers that need ({count}, {KERNEL_VOXELS})"
        )
    weights = {}
    for layer, block in zip(layers, filters.split([layer.count for layer in layers]), strict=True):
        weight = _mirrored(block, layer).reshape(layer.out_channels, layer.in_channels, *KERNEL_SHAPE)
        weights[layer.parameter] = weight.transpose(0, 1) if layer.transposed else weight
    return weights


def mirror_transposed(filters: Tensor, layers: Sequence[FilterLayer]) -> Tensor:
    """Mirrors the rows of transposed convolutions: from kernels as they are stored to filters, or back.

    Args:
        filters: `[…, F, 27]`, one row for each kernel of the layers.
        layers: the layers they belong to.
    """
    blocks = filters.split([layer.count for layer in layers], dim=-2)
    return torch.cat([_mirrored(block, layer) for layer, block in zip(layers, blocks, strict=True)], dim=-2)


def _mirrored(kernels: Tensor, layer: FilterLayer) -> Tensor:
    """Mirrors kernels `[…, 27]` of a transposed convolution along their three axes; of others returns them."""
    return kernels.flip(-1) if layer.transposed else kernels


def filter_positions(layers: Sequence[FilterLayer], network_layers: Sequence[FilterLayer]) -> FilterPositions:
    """Returns the positions of the filters of `layers`, in the order of `get_filters`.

    Args:
        layers: layers of one group.
        network_layers: all layers of the network, which number the layers.
    """
    numbers = {layer.parameter: index for index, layer in enumerate(network_layers)}
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer in layers:
        flat = torch.arange(layer.count)
        number = torch.full_like(flat, numbers[layer.parameter])
        columns.append((number, flat // layer.in_channels, flat % layer.in_channels))
    if not columns:
        empty = torch.zeros(0, dtype=torch.int64)
        return FilterPositions(empty, empty, empty)
    layer_numbers, outs, ins = (torch.cat(column) for column in zip(*columns, strict=True))
    return FilterPositions(layer_numbers, outs, ins)


def group_layers(
    network: nn.Module, grouping: FilterGrouping, example: Tensor | None = None
) -> dict[str, tuple[FilterLayer, ...]]:
    """Divides the layers of a network into groups that share one filter prior.

    Args:
        network: any network for `layer` and `all`; for `resolution` one made by `build_network`, or any with an
            example; for `consecutive` one made by `build_network`.
        grouping: the rule.
        example: `[N, C, X, Y, Z]`, an input of a network that `build_network` did not make.

    Returns:
        Layers by group name; every layer is in exactly one group.

    Raises:
        ModelError: the network has no such layer, or the rule needs one made by `build_network`.
    """
    layers = filter_layers(network)
    if not layers:
        raise ModelError(
            "the network has no convolution with 3×3×3 kernels",
            expected="a Conv3d or ConvTranspose3d of kernel size 3",
            fix="use another network",
        )
    if grouping is FilterGrouping.ALL:
        return {"all": layers}
    if grouping is FilterGrouping.LAYER:
        return {_module_name(layer): (layer,) for layer in layers}
    levels = resolution_levels(network, tuple(_module_name(layer) for layer in layers), example)
    if grouping is FilterGrouping.RESOLUTION:
        finest_first = sorted(layers, key=lambda layer: levels[_module_name(layer)])
        return _collect((f"resolution_{levels[_module_name(layer)]}", layer) for layer in finest_first)
    after_coarsest = set(decoder_parameters(network))
    decoder = [layer for layer in layers if layer.parameter in after_coarsest]
    groups = _encoder_groups(network, [layer for layer in layers if layer not in decoder])
    coarsest_first = sorted({levels[_module_name(layer)] for layer in decoder}, reverse=True)
    for number, level in enumerate(coarsest_first, start=1):
        groups[f"decoder_{number}"] = tuple(layer for layer in decoder if levels[_module_name(layer)] == level)
    return groups


def _encoder_groups(network: nn.Module, layers: list[FilterLayer]) -> dict[str, tuple[FilterLayer, ...]]:
    """Groups encoder layers by input width; the layers that read the image join those that follow."""
    stem = set(stem_parameters(network))
    widths = list(dict.fromkeys(layer.in_channels for layer in layers if layer.parameter not in stem))
    numbers = {width: number for number, width in enumerate(widths, start=1)}
    return _collect(
        (f"encoder_{1 if layer.parameter in stem else numbers[layer.in_channels]}", layer) for layer in layers
    )


def _collect(pairs: Iterable[tuple[str, FilterLayer]]) -> dict[str, tuple[FilterLayer, ...]]:
    groups: dict[str, list[FilterLayer]] = {}
    for name, layer in pairs:
        groups.setdefault(name, []).append(layer)
    return {name: tuple(members) for name, members in groups.items()}


def _module_name(layer: FilterLayer) -> str:
    return layer.parameter.removesuffix(".weight")
