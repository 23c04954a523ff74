import math

import pytest
import torch
from torch import nn

from data.errors import ModelError
from models.bayesian_network import BayesianNetwork
from models.filters import filter_layers, get_filters
from models.local_reparameterisation import local_reparameterised_forward
from models.networks.factory import build_network
from models.networks.monai_networks import UNetOptions
from models.posteriors.mean_field import MeanField
from models.posteriors.point import Point

CONVOLUTIONS = [
    nn.Conv3d(2, 3, 3, padding=1),
    nn.Conv3d(2, 3, 3, stride=2, bias=False),
    nn.ConvTranspose3d(2, 3, 3, stride=2, padding=1, output_padding=1),
]


@pytest.mark.slow
@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=["plain", "strided", "transposed"])
def test_activations_have_the_moments_that_drawn_weights_give(layer):
    network = nn.Sequential(layer).double()
    layers = filter_layers(network)
    posterior = MeanField(get_filters(network.state_dict(), layers), -3.0)
    bayesian = BayesianNetwork(network, posterior, layers)
    image = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    count = 3000
    with torch.no_grad():
        local = torch.stack(
            [local_reparameterised_forward(network, posterior, layers, image, generator) for _ in range(count)]
        )
        drawn = torch.stack([bayesian(image, posterior.sample(generator)) for _ in range(count)])
    error = (local.mean(0) - drawn.mean(0)) / ((local.var(0) + drawn.var(0)) / count).sqrt()
    assert float(error.abs().max()) < 5
    log_ratio = (local.var(0) / drawn.var(0)).log()
    assert float(log_ratio.abs().max()) < 5 * 2 / math.sqrt(count)


def test_gradients_reach_means_and_variances_and_no_hook_stays():
    network = build_network(UNetOptions(channels=(4, 6), residual_units=1), 1, 2)
    layers = filter_layers(network)
    image = torch.randn(1, 1, 8, 8, 8)
    posterior = MeanField(get_filters(network.state_dict(), layers), -4.0)
    before = network(image).detach()
    logits = local_reparameterised_forward(network, posterior, layers, image, torch.Generator().manual_seed(0))
    assert not torch.allclose(logits, before, atol=1e-3)
    logits.square().sum().backward()
    assert float(posterior.means.grad.abs().sum()) > 0
    assert float(posterior.log_variances.grad.abs().sum()) > 0
    assert torch.isfinite(posterior.log_variances.grad).all()
    assert torch.equal(network(image), before)


def test_only_for_mean_field():
    network = nn.Sequential(nn.Conv3d(1, 2, 3))
    layers = filter_layers(network)
    posterior = Point(get_filters(network.state_dict(), layers))
    with pytest.raises(ModelError, match="mean_field"):
        local_reparameterised_forward(network, posterior, layers, torch.zeros(1, 1, 4, 4, 4))
