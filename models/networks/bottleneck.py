"""What a segmentation network has made of an image at its coarsest level, before it decides anything about voxels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from models.networks.factory import decoder_parameters, called_levels


def bottleneck_module(network: nn.Module) -> str | None:
    """Returns the name of the last module of the encoder that outputs the coarsest level; None without levels.

    Raises:
        ModelError: `build_network` did not make the network.
        NetworkCodeError: an imported network cannot be run on the meta device.
    """
    decoder = set(decoder_parameters(network))
    names = tuple(name for name, _ in network.named_modules() if name)
    levels = called_levels(network, names)
    coarsest = max(levels.values(), default=0)
    if coarsest == 0:
        return None
    # A module's call ends after those of its parts, so the last one holds the whole of the coarsest level.
    found = [
        name
        for name, level in levels.items()
        if level == coarsest and not any(parameter.startswith(f"{name}.") for parameter in decoder)
    ]
    return found[-1] if found else None


@contextmanager
def watched_features(network: nn.Module, module: str) -> Iterator[list[Tensor]]:
    """Yields a list that holds what the named module has output in the latest call of the network, `[N, F, x, y, z]`."""
    latest: list[Tensor] = []

    def remember(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Any) -> None:
        latest[:] = [output]

    handle = network.get_submodule(module).register_forward_hook(remember)
    try:
        yield latest
    finally:
        handle.remove()
