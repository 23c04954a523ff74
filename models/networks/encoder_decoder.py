"""A network in two parts: the encoder down to the bottleneck, and the decoder from there to the output.

Both parts are the modules of the network itself, called one after the other, so its weights keep their names and
shapes. `decode(network, *encode(network, image))` is what the network returns in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.networks.factory import network_record
from models.networks.monai_networks import DynUNetOptions, SegResNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNet

Encoded = tuple[Tensor, list[Tensor]]
"""Features of the bottleneck `[N, F, x, y, z]`, and those that skip connections hand to the decoder, finest first."""


def encode(network: nn.Module, image: Tensor) -> Encoded:
    """Computes the bottleneck of an image `[N, C, X, Y, Z]`, and the features that go past it.

    Raises:
        ModelError: the parts of the network are not known, or the image is too small for it.
    """
    if isinstance(network, ResidualUNet):
        *skips, bottleneck = network.encode(image)
        return bottleneck, skips
    own, features, skips = _known(network), image, []
    if isinstance(own, SegResNetOptions):
        features, levels = network.encode(image)  # type: ignore[operator]
        return features, levels[:-1]
    for level in _levels(network):
        features = level[0](features)
        skips.append(features)
    return bottom(network)(features), skips


def decode(network: nn.Module, bottleneck: Tensor, skips: Sequence[Tensor]) -> Tensor:
    """Computes the output `[N, K, X, Y, Z]` from what `encode` returned, or from other numbers of the same shapes.

    Raises:
        ModelError: the parts of the network are not known.
    """
    result: Tensor
    if isinstance(network, ResidualUNet):
        result = network.head(network.decode([*skips, bottleneck])[-1])
        return result
    own, features = _known(network), bottleneck
    if isinstance(own, SegResNetOptions):
        result = network.decode(features, [features, *reversed(skips)])  # type: ignore[operator]
        return result
    for (_, up), skip in zip(reversed(list(_levels(network))), reversed(skips), strict=True):
        features = up(torch.cat([skip, features], dim=1)) if isinstance(own, UNetOptions) else up(features, skip)
    return features if isinstance(own, UNetOptions) else network.get_submodule("output_block")(features)


def without_skips(encoded: Encoded) -> Encoded:
    """Returns the bottleneck with skip connections that carry nothing: the decoder sees the bottleneck alone."""
    bottleneck, skips = encoded
    return bottleneck, [torch.zeros_like(skip) for skip in skips]


def bottleneck_width(network: nn.Module) -> int:
    """Returns the number of feature channels of the bottleneck.

    Raises:
        ModelError: the parts of the network are not known.
    """
    if isinstance(network, ResidualUNet):
        return network.options.channels[-1]
    own = _known(network)
    if isinstance(own, SegResNetOptions):
        return int(own.initial_channels * 2 ** (len(own.encoder_blocks) - 1))
    return own.channels[-1]


def _known(network: nn.Module) -> UNetOptions | DynUNetOptions | SegResNetOptions:
    options = network_record(network).options
    if isinstance(options, UNetOptions | DynUNetOptions | SegResNetOptions):
        return options
    raise ModelError(
        f"the network `{options.name}` has no bottleneck that is known",
        expected="one of residual_unet, unet, dynunet and segresnet",
        fix="use one of them, or an objective that needs no bottleneck: denoising or masked",
    )


def _nested(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
    """The way down, what lies below and the way up of each level of a network whose levels are nested."""
    level = network.get_submodule("model" if isinstance(_known(network), UNetOptions) else "skip_layers")
    while True:
        if isinstance(level, nn.Sequential) and len(level) == 3 and hasattr(level[1], "submodule"):
            parts = level[0], level[1].get_submodule("submodule"), level[2]
        elif hasattr(level, "next_layer"):
            parts = (
                level.get_submodule("downsample"),
                level.get_submodule("next_layer"),
                level.get_submodule("upsample"),
            )
        else:
            return
        yield parts
        level = parts[1]


def _levels(network: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """The ways down and up of each level, finest first."""
    return [(down, up) for down, _, up in _nested(network)]


def bottom(network: nn.Module) -> nn.Module:
    """Returns the module whose output is the bottleneck, as `encode` returns it.

    Raises:
        ModelError: the parts of the network are not known.
    """
    if isinstance(network, ResidualUNet):
        return network.encoder[-1]
    if isinstance(_known(network), SegResNetOptions):
        return network.get_submodule("down_layers")[-1]  # type: ignore[index]
    *_, (_, lowest, _) = _nested(network)
    return lowest
