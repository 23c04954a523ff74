import pytest
import torch
from pydantic import TypeAdapter

from data.errors import ModelError
from models.networks.encoder_decoder import bottleneck_width, decode, encode, without_skips
from models.networks.factory import NetworkOptions, NetworkRecord, build_network
from models.networks.imported_network import ImportedNetworkOptions

ADAPTER = TypeAdapter(NetworkOptions)
NETWORKS = {
    "residual_unet": {"name": "residual_unet", "channels": (4, 6, 8), "encoder_blocks": (0, 1, 1)},
    "thick_slices": {
        "name": "residual_unet",
        "channels": (4, 6, 8),
        "encoder_blocks": (1, 1, 1),
        "strides": ((2, 2, 1), (2, 2, 2)),
    },
    "unet": {"name": "unet", "channels": (4, 6, 8), "residual_units": 1},
    "unet_of_two_levels": {"name": "unet", "channels": (4, 6), "residual_units": 0},
    "dynunet": {"name": "dynunet", "channels": (4, 6, 8)},
    "segresnet": {"name": "segresnet", "initial_channels": 8, "encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1)},
}


@pytest.fixture(params=sorted(NETWORKS))
def network(request):
    return build_network(ADAPTER.validate_python(NETWORKS[request.param]), in_channels=2, out_channels=3).eval()


def test_the_parts_one_after_the_other_are_the_network(network):
    image = torch.randn(2, 2, 16, 16, 16)
    bottleneck, skips = encode(network, image)
    assert bottleneck.shape[1] == bottleneck_width(network)
    assert bottleneck.shape[2] < 16
    torch.testing.assert_close(decode(network, bottleneck, skips), network(image), rtol=0, atol=0)


def test_without_skips_the_output_depends_on_the_bottleneck_alone(network):
    first, second = torch.randn(2, 1, 2, 16, 16, 16)
    bottleneck, nothing = without_skips(encode(network, first))
    _, others = without_skips(encode(network, second))
    alone = decode(network, bottleneck, nothing)
    torch.testing.assert_close(alone, decode(network, bottleneck, others))
    assert not torch.allclose(alone, network(first))


def test_a_network_whose_parts_are_not_known_is_refused():
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    network.__dict__["graft_record"] = NetworkRecord(ImportedNetworkOptions(factory="a.b:c"), 1, 1)
    with pytest.raises(ModelError, match="bottleneck"):
        encode(network, torch.zeros(1, 1, 4, 4, 4))
