"""Weights of a source pack: are they those of its networks and densities, finite and with kernels of 3×3×3?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from data.errors import ModelError
from models.filters import KERNEL_SHAPE, KERNEL_VOXELS, filter_layers
from models.networks.factory import NetworkRecord, meta_network
from models.networks.imported_network import ImportedNetworkOptions
from models.priors.factory import load_prior
from pipeline.packs.pack_archive import PackError, SourcePack
from pipeline.packs.pack_record import density_entry, snapshot_entry
from pipeline.storage.tensors import parse_tensors

_LARGEST_OPTION = 4096
"""No network has as many channels or blocks; larger ones would not be built in any time."""
_MIRRORED = 2
"""The first format of packs whose densities were fitted to mirrored kernels of transposed convolutions."""
_FIX = "ask its giver for another"


def snapshot(pack: SourcePack, network: int, cycle: int) -> tuple[bytes, dict[str, Tensor]]:
    """Reads the weights of a network at the end of a cycle, as they are stored and as tensors.

    Raises:
        PackError: they are damaged, not finite, or have filters of another size.
    """
    name = snapshot_entry(network, cycle)
    content = pack.read(name)
    state = parse_tensors(content, f"{pack.path}, {name}", PackError, _FIX)
    for layer in (layer for group in pack.record.groups.values() for layer in group.layers):
        shape = tuple(state[layer].shape) if layer in state else None
        if shape is None or len(shape) != 2 + len(KERNEL_SHAPE) or shape[2:] != KERNEL_SHAPE:
            found = "is missing" if shape is None else f"has kernels of {'×'.join(map(str, shape[2:])) or 'no size'}"
            raise PackError(
                f"{pack.path}, {name}: the layer {layer[:80]!r} {found}",
                expected="kernels of 3×3×3, the only ones that filter priors are of",
                fix=_FIX,
            )
    return content, state


def density(pack: SourcePack, group: str, name: str) -> bytes:
    """Reads a fitted density as it is stored.

    Raises:
        PackError: it is damaged, not finite, of another size of kernels, not of its options, or fitted to kernels that
            are now read another way.
    """
    entry = density_entry(group, name)
    if pack.format < _MIRRORED and _may_be_transposed(pack, group):
        raise PackError(
            f"{pack.path}, {entry}: was fitted to transposed convolutions whose kernels were not mirrored (format "
            f"{pack.format})",
            expected=f"format {_MIRRORED} where a network has transposed convolutions",
            fix="run its study again with this version and `graft pack` after it, or ask its giver to",
        )
    content = pack.read(entry)
    state = parse_tensors(content, f"{pack.path}, {entry}", PackError, _FIX)
    try:
        found = load_prior(pack.record.priors.densities[name], state).kernel_voxels
    except (ModelError, RuntimeError, KeyError, ValueError) as error:
        reason = error.found if isinstance(error, ModelError) else str(error)
        raise PackError(
            f"{pack.path}, {entry}: does not fit the options of the density ({reason})", fix=_FIX
        ) from error
    if found != KERNEL_VOXELS:
        raise PackError(
            f"{pack.path}, {entry}: the density was fitted to kernels of {found} voxels",
            expected=f"kernels of {KERNEL_VOXELS} voxels (3×3×3), those of the network's filters",
            fix=_FIX,
        )
    return content


def _may_be_transposed(pack: SourcePack, group: str) -> bool:
    """Whether a group of layers holds transposed convolutions, as far as that is known without code outside Graft."""
    network = _network(pack)
    if network is None:
        return True
    transposed = {layer.parameter for layer in filter_layers(network) if layer.transposed}
    return not transposed.isdisjoint(pack.record.groups[group].layers)


def require_whole(pack: SourcePack) -> None:
    """Reads all of a pack.

    Raises:
        PackError: a file is damaged, its weights are not those of its networks, or its kernels have another size.
    """
    record = pack.record
    shapes = _shapes(pack)
    for number in record.networks:
        for cycle in record.snapshots:
            _, state = snapshot(pack, number, cycle)
            if shapes is not None and (wrong := _differing(shapes, state)):
                raise PackError(
                    f"{pack.path}, {snapshot_entry(number, cycle)}: its weights are not those of the network that the "
                    f"pack describes ({wrong[:80]})",
                    expected="the weights of that network",
                    fix=_FIX,
                )
    for group, own in record.groups.items():
        for name in own.fits:
            density(pack, group, name)
    weights = {snapshot_entry(n, c) for n in record.networks for c in record.snapshots}
    weights |= {density_entry(group, name) for group, own in record.groups.items() for name in own.fits}
    for name in sorted(set(record.files) - weights):
        pack.read(name)


def _shapes(pack: SourcePack) -> dict[str, tuple[int, ...]] | None:
    """Name → shape of the weights that the networks have; None for a network that is code outside Graft."""
    network = _network(pack)
    return None if network is None else {name: tuple(own.shape) for name, own in network.state_dict().items()}


def _network(pack: SourcePack) -> nn.Module | None:
    """The networks without weights; None if they are code outside Graft."""
    options = pack.record.network
    if isinstance(options, ImportedNetworkOptions):
        return None
    if any(number > _LARGEST_OPTION for number in _numbers(options.model_dump(mode="json"))):
        raise PackError(
            f"{pack.path}: describes a network with sizes above {_LARGEST_OPTION}",
            expected="a network that can be built",
            fix=_FIX,
        )
    outputs = pack.record.heads.outputs(len(pack.record.classes))
    return meta_network(NetworkRecord(options, len(pack.record.channels), outputs))


def _differing(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> str | None:
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return next((name for name in sorted({*shapes, *found}) if shapes.get(name) != found.get(name)), None)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _numbers(child)
