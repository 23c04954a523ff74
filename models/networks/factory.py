"""Builds a network from its options, the same weights for the same seed, and names its parts.

What the arms need to know about a network is which parameters form its first and last blocks, its decoder, its stem
(what depends on the number of image channels) and its head (what depends on the number of classes). No other code
depends on which network it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from data.errors import ModelError
from models.networks.imported_network import ImportedNetworkOptions, build_imported, run_without_values
from models.networks.monai_networks import (
    DynUNetOptions,
    SegResNetOptions,
    UNetOptions,
    build_dynunet,
    build_segresnet,
    build_unet,
)
from models.networks.residual_unet import ResidualUNet, ResidualUNetOptions, first_block_prefix

_OwnOptions = ResidualUNetOptions | UNetOptions | DynUNetOptions | SegResNetOptions


def _named(raw: Any) -> Any:
    """A network with a `factory` need not state that it is imported."""
    return {"name": "imported", **raw} if isinstance(raw, Mapping) and "factory" in raw else raw


NetworkOptions = Annotated[
    _OwnOptions | ImportedNetworkOptions,
    Field(discriminator="name"),
    BeforeValidator(_named),
]

_BUILDERS: dict[type[Any], Callable[[Any, int, int], nn.Module]] = {
    ResidualUNetOptions: ResidualUNet,
    UNetOptions: build_unet,
    DynUNetOptions: build_dynunet,
    SegResNetOptions: build_segresnet,
    ImportedNetworkOptions: build_imported,
}

# A width that no real network has, so that a parameter whose shape depends on it stands out.
_PROBE_WIDTH = 9973
_PROBE_SIZE = 256


@dataclass(frozen=True)
class NetworkRecord:
    """What a network was built from; `build_network` leaves it on the network as `graft_record`."""

    options: NetworkOptions
    in_channels: int
    out_channels: int


def build_network(
    options: NetworkOptions, in_channels: int, out_channels: int, seed: int | torch.Generator = 0
) -> nn.Module:
    """Builds a segmentation network.

    Args:
        options: which network and its sizes.
        in_channels: image channels.
        out_channels: classes, background included.
        seed: of the initial weights, or a generator from which one is drawn. The same seed gives the same weights, and
            the global random state of torch stays as it was.

    Returns:
        A module that maps `[N, C, X, Y, Z]` to logits `[N, K+1, X, Y, Z]`.
    """
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(0, 2**62, (1,), generator=seed, device=seed.device).item())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _construct(NetworkRecord(options, in_channels, out_channels))


def _construct(record: NetworkRecord) -> nn.Module:
    network = _BUILDERS[type(record.options)](record.options, record.in_channels, record.out_channels)
    network.__dict__["graft_record"] = record
    return network


def without_deep_supervision(options: NetworkOptions) -> NetworkOptions:
    """Returns the same network without heads on its coarser levels.

    Its filters have the same names and positions, and a state with such heads starts it (they are left out).
    """
    if isinstance(options, ResidualUNetOptions | DynUNetOptions):
        return options.model_copy(update={"deep_supervision": 0})
    return options


def coarsest_factors(options: NetworkOptions) -> tuple[int, int, int]:
    """Returns how many voxels of the image along each axis one voxel of the coarsest level stands for."""
    if isinstance(options, ResidualUNetOptions):
        return options.reduction
    if isinstance(options, ImportedNetworkOptions):
        below = max(_imported_levels(layers_of_network(NetworkRecord(options, 1, 2))).values(), default=0)
    else:
        below = len(options.encoder_blocks if isinstance(options, SegResNetOptions) else options.channels) - 1
    factor = int(2**below)
    return factor, factor, factor


def network_record(network: nn.Module) -> NetworkRecord:
    """Returns what a network was built from.

    Raises:
        ModelError: if `build_network` did not make it.
    """
    record = getattr(network, "graft_record", None)
    if not isinstance(record, NetworkRecord):
        raise ModelError(
            f"a network of class {type(network).__name__} was not made by build_network",
            expected="a network whose options are known",
            fix="build it with models.networks.factory.build_network",
        )
    return record


def meta_network(record: NetworkRecord) -> nn.Module:
    """Builds the network without memory for its weights, to look at its shapes."""
    with torch.device("meta"), _WithoutInitialisation():
        return _construct(record).eval()


def layers_of_network(record: NetworkRecord) -> nn.Module:
    """Builds the network to look at its layers, as cheaply as it can be."""
    # Somebody else's code need not work without values.
    return _construct(record) if isinstance(record.options, ImportedNetworkOptions) else meta_network(record)


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves the weights of a network as they are: those without memory take longer to draw than to describe."""

    _FILLING = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self._FILLING else func(*args, **(kwargs or {}))


def stem_parameters(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters whose shape depends on the number of image channels."""
    record = network_record(network)
    return _changed_shapes(network, NetworkRecord(record.options, _PROBE_WIDTH, record.out_channels))


def head_parameters(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters whose shape depends on the number of classes."""
    record = network_record(network)
    return _changed_shapes(network, NetworkRecord(record.options, record.in_channels, _PROBE_WIDTH))


def _changed_shapes(network: nn.Module, probe: NetworkRecord) -> tuple[str, ...]:
    others = dict(meta_network(probe).named_parameters())
    return tuple(
        name
        for name, parameter in network.named_parameters()
        if name not in others or others[name].shape != parameter.shape
    )


def end_blocks(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters of the first block (with the stem) and of the last block (with the head).

    For an imported network these are the modules that depend on the number of image channels or of classes.
    """
    options = network_record(network).options
    names = [name for name, _ in network.named_parameters()]
    if isinstance(options, ImportedNetworkOptions):
        ends = {name.rpartition(".")[0] for name in (*stem_parameters(network), *head_parameters(network))}
        return tuple(name for name in names if name.rpartition(".")[0] in ends)
    first, last = _end_patterns(options)
    return tuple(name for name in names if re.match(f"{first}|{last}", name))


def last_block(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters of the last block, with the head.

    For an imported network these are the modules that depend on the number of classes.
    """
    options = network_record(network).options
    names = [name for name, _ in network.named_parameters()]
    if isinstance(options, ImportedNetworkOptions):
        heads = {name.rpartition(".")[0] for name in head_parameters(network)}
        return tuple(name for name in names if name.rpartition(".")[0] in heads)
    return tuple(name for name in names if re.match(_end_patterns(options)[1], name))


def decoder_parameters(network: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters that come after the coarsest level, the head included.

    For an imported network these are the modules that are called after the last one that outputs the coarsest level;
    none if all levels are that of the image.
    """
    options = network_record(network).options
    names = [name for name, _ in network.named_parameters()]
    if not isinstance(options, ImportedNetworkOptions):
        return tuple(name for name in names if re.match(_decoder_pattern(options), name))
    levels = _imported_levels(network)
    order, coarsest = list(levels), max(levels.values(), default=0)
    last = max((number for number, name in enumerate(order) if levels[name] == coarsest), default=0)
    after = set(order[last + 1 :]) if coarsest else set()
    return tuple(name for name in names if name.rpartition(".")[0] in after)


def _imported_levels(network: nn.Module) -> dict[str, int]:
    """Level of every module with parameters of its own that is called, in the order of their last calls."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters())
    return called_levels(network, tuple(owners))


def _decoder_pattern(options: _OwnOptions) -> str:
    if isinstance(options, ResidualUNetOptions):
        return r"decoder\.|head\.|coarse_heads\."
    if isinstance(options, UNetOptions):
        # MONAI nests the levels: Sequential(down, SkipConnection(the levels below), up).
        return r"model\.(1\.submodule\.)*2\."
    if isinstance(options, DynUNetOptions):
        return r"skip_layers\.(next_layer\.)*(upsample|super_head)\.|output_block\."
    return r"up_layers\.|up_samples\.|conv_final\."


def _end_patterns(options: _OwnOptions) -> tuple[str, str]:
    if isinstance(options, ResidualUNetOptions):
        last = len(options.channels) - 2
        return rf"stem\.|{re.escape(first_block_prefix(options))}", rf"decoder\.{last}\.|head\."
    if isinstance(options, UNetOptions):
        return r"model\.0\.", r"model\.2\."
    if isinstance(options, DynUNetOptions):
        return r"skip_layers\.downsample\.", r"skip_layers\.upsample\.|output_block\."
    last = len(options.decoder_blocks) - 1
    return r"convInit\.|down_layers\.0\.", rf"up_layers\.{last}\.|up_samples\.{last}\.|conv_final\."


def resolution_levels(network: nn.Module, modules: tuple[str, ...], example: Tensor | None = None) -> dict[str, int]:
    """Finds the resolution at which each of the named modules outputs its features.

    Without an example the network is run once on the meta device, where tensors have shapes but no values.

    Args:
        network: a network made by `build_network`, or any with an example.
        modules: names of modules.
        example: `[N, C, X, Y, Z]`, what the network is called with.

    Returns:
        Level by module name: 0 for the resolution of the image (and for a module that is not called), 1 for half of
        it, and so on, along the axis that is reduced most.

    Raises:
        ModelError: there is no example and `build_network` did not make the network.
        NetworkCodeError: an imported network cannot be run on the meta device.
    """
    return dict.fromkeys(modules, 0) | called_levels(network, modules, example)


def called_levels(network: nn.Module, modules: tuple[str, ...], example: Tensor | None = None) -> dict[str, int]:
    """Returns the levels of the modules that are called, in the order of their last calls; see `resolution_levels`."""
    if example is not None:
        return _levels_of_a_pass(network, modules, example)
    record = network_record(network)
    # The code of an imported network may change while a session of Python lasts.
    imported = isinstance(record.options, ImportedNetworkOptions)
    return _levels_without_values(record, modules) if imported else dict(_levels_of_own(record, modules))


@lru_cache(maxsize=64)
def _levels_of_own(record: NetworkRecord, modules: tuple[str, ...]) -> dict[str, int]:
    return _levels_without_values(record, modules)


def _levels_without_values(record: NetworkRecord, modules: tuple[str, ...]) -> dict[str, int]:
    example = torch.empty(1, record.in_channels, *[_PROBE_SIZE] * 3, device="meta")
    with run_without_values(record.options):
        return _levels_of_a_pass(meta_network(record), modules, example)


def _levels_of_a_pass(network: nn.Module, modules: tuple[str, ...], example: Tensor) -> dict[str, int]:
    size, levels = example.shape[2:], dict[str, int]()

    def watch(name: str) -> RemovableHandle:
        def remember(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 5:
                levels.pop(name, None)
                levels[name] = max(round(math.log2(a / b)) for a, b in zip(size, output.shape[2:], strict=True))

        return network.get_submodule(name).register_forward_hook(remember)

    handles = [watch(name) for name in modules]
    # Module by module: a user's network may keep some of them frozen in evaluation mode.
    training = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            network.eval()(example)
    finally:
        for module, mode in training.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return levels
