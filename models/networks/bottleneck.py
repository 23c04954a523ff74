"""What a segmentation network has made of an image at its coarsest level, before it decides anything about voxels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from models.networks.encoder_decoder import bottom
from models.networks.factory import called_levels, decoder_parameters, network_record
from models.networks.imported_network import ImportedNetworkOptions


def bottleneck_module(network: nn.Module) -> str | None:
    """Returns the name of the module that outputs the bottleneck; None of a network without coarser levels.

    Of an imported network it is the last module before the decoder that outputs the coarsest level.

    Raises:
        ModelError: `build_network` did not make the network.
        NetworkCodeError: an imported network cannot be run on the meta device.
    """
    if isinstance(network_record(network).options, ImportedNetworkOptions):
        return _last_at_the_coarsest_level(network)
    last = bottom(network)
    return next(name for name, module in network.named_modules() if module is last)


def _last_at_the_coarsest_level(network: nn.Module) -> str | None:
    decoder = decoder_parameters(network)
    levels = called_levels(network, tuple(name for name, _ in network.named_modules() if name))
    coarsest = max(levels.values(), default=0)
    # A module's call ends after those of its parts, so the last one holds the whole of the coarsest level.
    found = [
        name
        for name, level in levels.items()
        if level == coarsest and not any(parameter.startswith(f"{name}.") for parameter in decoder)
    ]
    return found[-1] if coarsest > 0 and found else None


@contextmanager
def watched_features(network: nn.Module, module: str) -> Iterator[list[Tensor]]:
    """Yields a list that holds what the module has output in the latest call of the network, `[N, F, x, y, z]`."""
    latest: list[Tensor] = []

    def remember(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Any) -> None:
        latest[:] = [output]

    handle = network.get_submodule(module).register_forward_hook(remember)
    try:
        yield latest
    finally:
        handle.remove()
