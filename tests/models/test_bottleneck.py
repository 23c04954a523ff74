"""Which module of a network is its bottleneck, and what is watched there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.networks.bottleneck import bottleneck_module, watched_features
from models.networks.encoder_decoder import encode
from models.networks.factory import NetworkOptions, build_network
from models.networks.imported_network import ImportedNetworkOptions, network_code_allowed
from models.networks.monai_networks import DynUNetOptions, SegResNetOptions, UNetOptions
from models.networks.residual_unet import ResidualUNetOptions


@pytest.mark.parametrize(
    "options",
    [
        ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 2)),
        UNetOptions(channels=(4, 6, 8)), DynUNetOptions(channels=(4, 6, 8)), SegResNetOptions(initial_channels=8),
    ],
    ids=lambda options: options.name,
)  # fmt: skip
def test_it_is_where_the_encoder_ends(options: NetworkOptions) -> None:
    network = build_network(options, 1, 2).eval()
    module = bottleneck_module(network)
    assert module is not None
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), watched_features(network, module) as latest:
        network(image)
        expected, _ = encode(network, image)
    torch.testing.assert_close(latest[0], expected)


def test_nothing_is_watched_afterwards() -> None:
    network = build_network(ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1)), 1, 2).eval()
    module = bottleneck_module(network)
    assert module is not None
    with torch.no_grad(), watched_features(network, module) as latest:
        pass
    network(torch.zeros(1, 1, 8, 8, 8))
    assert latest == []


class OwnNetwork(nn.Sequential):
    """A network of somebody else: down to half the resolution and up again, or not."""

    def __init__(self, channels: int, classes: int, reduced: bool) -> None:
        halved = [nn.Conv3d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv3d(6, 4, 1)]
        super().__init__(nn.Conv3d(channels, 4, 3, padding=1), *(halved if reduced else []), nn.Conv3d(4, classes, 1))


@pytest.mark.parametrize(("reduced", "module"), [(True, "2"), (False, None)])
def test_of_an_imported_network_it_is_the_last_module_at_the_coarsest_level(reduced: bool, module: str | None) -> None:
    with network_code_allowed(True):
        options = ImportedNetworkOptions(factory=f"{__name__}:OwnNetwork", options={"reduced": reduced})
        assert bottleneck_module(build_network(options, 1, 2)) == module
