import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from data.errors import ModelError
from models.bayesian_network import BayesianNetwork, WeightDraw
from models.filters import filter_layers, get_filters
from models.networks.factory import NetworkOptions, build_network
from models.posteriors.mean_field import MeanField
from models.posteriors.point import Point

SMALL = [
    {"name": "residual_unet", "channels": (4, 6, 8), "encoder_blocks": (0, 1, 1)},
    {"name": "unet", "channels": (4, 6, 8), "residual_units": 1},
    {"name": "dynunet", "channels": (4, 6, 8)},
    {"name": "segresnet", "initial_channels": 8, "encoder_blocks": (1, 1), "decoder_blocks": (1,)},
]


def network_of(options):
    return build_network(TypeAdapter(NetworkOptions).validate_python(options), 1, 2)


@pytest.mark.parametrize("options", SMALL, ids=lambda o: o["name"])
def test_forward_uses_the_given_filters_and_baking_them_gives_the_same(options):
    network = network_of(options).eval()
    layers = filter_layers(network)
    start = get_filters(network.state_dict(), layers)
    image = torch.randn(1, 1, 16, 16, 16)
    reference = network(image).detach()
    bayesian = BayesianNetwork(network, MeanField(start, -4.0), layers).eval()
    assert torch.allclose(bayesian(image), reference)
    draw = bayesian.posterior.sample(torch.Generator().manual_seed(0)).detach()
    drawn = bayesian(image, draw).detach()
    assert not torch.allclose(drawn, reference, atol=1e-3)
    assert torch.equal(get_filters(network.state_dict(), layers), start)
    network.load_state_dict(bayesian.tensors(WeightDraw(draw)), strict=False)
    assert torch.allclose(network(image), drawn)
    assert torch.equal(get_filters(network.state_dict(), layers), draw)


@pytest.mark.parametrize("options", SMALL, ids=lambda o: o["name"])
def test_training_moves_the_posterior_and_the_rest_but_not_the_placeholders(options):
    network = network_of(options)
    layers = filter_layers(network)
    start = get_filters(network.state_dict(), layers)
    bayesian = BayesianNetwork(network, Point(start), layers)
    logits = bayesian(torch.randn(2, 1, 16, 16, 16), bayesian.posterior.sample())
    logits.square().sum().backward()
    names = {layer.parameter for layer in layers}
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name in names)
    assert float(bayesian.posterior.filters.grad.abs().sum()) > 0
    assert {id(p) for p in bayesian.point_parameters()} == {
        id(p) for name, p in network.named_parameters() if name not in names
    }


def test_gradients_are_those_of_the_ordinary_network():
    options = SMALL[1]
    network, twin = network_of(options), network_of(options)
    layers = filter_layers(network)
    bayesian = BayesianNetwork(network, Point(get_filters(network.state_dict(), layers)), layers)
    image = torch.randn(1, 1, 16, 16, 16)
    bayesian(image).square().sum().backward()
    twin(image).square().sum().backward()
    expected = get_filters({name: p.grad for name, p in twin.named_parameters()}, layers)
    assert torch.allclose(bayesian.posterior.filters.grad, expected, rtol=1e-4, atol=1e-6)


def test_running_statistics_are_updated_in_place():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    layers = filter_layers(network)
    bayesian = BayesianNetwork(network, Point(get_filters(network.state_dict(), layers)), layers)
    bayesian(torch.randn(2, 1, 5, 5, 5) + 3)
    assert int(network[1].num_batches_tracked) == 1
    assert float(network[1].running_mean.abs().sum()) > 0


def test_posterior_of_another_network_is_refused():
    network = network_of(SMALL[0])
    with pytest.raises(ModelError, match="posterior over 3 filters"):
        BayesianNetwork(network, Point(torch.zeros(3, 27)), filter_layers(network))
