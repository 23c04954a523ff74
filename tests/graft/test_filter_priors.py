"""Priors and posteriors over the filters of networks that Graft knows nothing of."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import graft
from data.errors import ConfigError, ModelError
from models.filters import filter_layers, get_filters
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions


class Foreign(nn.Module):
    """Two resolutions, a transposed convolution, kernels of other sizes, and nothing that Graft asks of a network."""

    def __init__(self, channels: int = 1, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, padding=1)
        self.down = nn.Conv3d(width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Conv3d(width, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = torch.relu(self.first(images))
        return self.head(fine + self.up(torch.relu(self.down(fine))))


def network(seed: int = 0, **sizes: int) -> Foreign:
    torch.manual_seed(seed)
    return Foreign(**sizes)


AROUND = {"kind": "gaussian", "centre": "source_position", "covariance": "isotropic", "relative_std": 0.1}
SMALL_VAE = {"kind": "vae", "max_steps": 10, "hidden": [8], "latent": 2, "batch": 64}


@pytest.mark.parametrize("density", ["gaussian", {"kind": "gaussian_mixture", "components": 2}, SMALL_VAE])
@pytest.mark.parametrize("grouping", [None, "layer", "resolution"])
def test_a_prior_is_fitted_to_any_network(density: str | dict, grouping: str | None) -> None:
    example = torch.zeros(1, 1, 8, 8, 8)
    prior = graft.priors.fit([network(0), network(1)], density, grouping=grouping, example=example)
    wanted = {
        None: {"all": 3},
        "layer": {"first": 1, "down": 1, "up": 1},
        "resolution": {"resolution_0": 2, "resolution_1": 1},
    }
    assert {group: len(layers) for group, layers in prior.groups.items()} == wanted[grouping]
    assert prior.grouping == (grouping or "all")
    scores = prior.log_prob(network(2))
    assert sum(len(values) for values in scores.values()) == 4 + 32 + 32
    assert all(torch.isfinite(values).all() for values in scores.values())


def test_a_gaussian_is_that_of_the_filters() -> None:
    source = network()
    prior = graft.priors.fit(source, {"kind": "gaussian", "covariance": "isotropic"})
    filters = get_filters(source.state_dict(), filter_layers(source)).double()
    deviation = (filters - filters.mean(0)).square().mean().sqrt()
    exact = torch.distributions.Normal(filters.mean(0), deviation).log_prob(filters).sum(1)
    torch.testing.assert_close(prior.log_prob(source)["all"].double(), exact, rtol=1e-3, atol=1e-3)


def test_a_prior_of_all_layers_fits_another_architecture() -> None:
    prior = graft.priors.fit(network())
    other = build_network(ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1)), 2, 3)
    before = get_filters(other.state_dict(), filter_layers(other)).clone()
    head = {name: tensor.clone() for name, tensor in other.state_dict().items() if name.startswith("head")}
    assert prior.initialise(other, seed=3) is other
    after = get_filters(other.state_dict(), filter_layers(other))
    assert not torch.isclose(before, after).any(dim=1).all()
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in head.items())
    again = prior.sample(other, seed=3)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in again.items())


def test_networks_of_graft_are_grouped_as_published() -> None:
    own = build_network(ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1)), 1, 2)
    assert set(graft.priors.fit(own).groups) == {"encoder_1", "encoder_2", "decoder_1"}


def test_priors_that_know_positions_are_fitted_too() -> None:
    source = network()
    reuse = {"kind": "reuse_or_redraw", "position": AROUND, "shape": SMALL_VAE}
    for density in (AROUND, reuse):
        prior = graft.priors.fit(source, density)
        assert prior.log_prob(source)["all"].mean() > prior.log_prob(network(1))["all"].mean()
        assert prior.initialise(network(2)).first.weight.isfinite().all()


def test_densities_of_changes_and_around_branches_need_the_starts_of_their_networks() -> None:
    starts, generator = [network(seed) for seed in range(3)], torch.Generator().manual_seed(0)
    branches = [copy.deepcopy(starts[0]) for _ in range(3)]
    with torch.no_grad():
        for parameter in (parameter for branch in branches for parameter in branch.parameters()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    changes = graft.priors.fit(branches, {"kind": "displacement"}, starts=[starts[0]] * 3)
    with pytest.raises(ModelError, match="does not know what the filters were before the change"):
        changes.log_prob(branches[0])
    here = changes.centre_on(starts[0]).log_prob(branches[0])["all"].mean()
    assert here > changes.centre_on(starts[1]).log_prob(branches[0])["all"].mean() + 10
    # A draw is a change of the start.
    drawn = changes.centre_on(starts[1]).initialise(copy.deepcopy(starts[1]))
    assert 0 < (drawn.first.weight - starts[1].first.weight).abs().max() < 0.5
    around = graft.priors.fit(branches, {"kind": "gaussian", "centre": "branches"}, starts=starts[0])
    assert around.log_prob(branches[0])["all"].mean() > around.log_prob(starts[1])["all"].mean() + 10
    for wrong, words in ((starts, "started from weights of their own"), (None, "is not known")):
        with pytest.raises(ModelError, match=words):
            graft.priors.fit(branches, {"kind": "gaussian", "centre": "branches"}, starts=wrong)


def test_looking_at_resolutions_leaves_a_network_as_it_was() -> None:
    source = network()
    source.first.eval()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    graft.priors.fit(source, grouping="resolution", example=torch.zeros(1, 1, 8, 8, 8))
    assert (source.training, source.first.training, source.down.training) == (True, False, True)
    assert not source.first._forward_hooks
    assert all(torch.equal(before[name], tensor) for name, tensor in source.state_dict().items())


def test_what_cannot_be_done_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="grouping 'consecutive' is unknown for this network; expected one of layer"):
        graft.priors.fit(network(), grouping="consecutive")
    with pytest.raises(ConfigError, match=r"example=torch.zeros"):
        graft.priors.fit(network(), grouping="resolution")
    with pytest.raises(ConfigError, match=r"density: .*gauss"):
        graft.priors.fit(network(), "gauss")
    with pytest.raises(ModelError, match="no convolution with 3×3×3 kernels"):
        graft.priors.fit(nn.Conv3d(1, 1, 1))
    with pytest.raises(ModelError, match="no network"):
        graft.priors.fit([])
    by_layer = graft.priors.fit(network(), grouping="layer")
    with pytest.raises(ModelError, match=r"other layers than the network.*grouping='all'"):
        by_layer.log_prob(nn.Sequential(nn.Conv3d(1, 2, 3)))


def test_a_stem_may_read_other_channels() -> None:
    by_layer = graft.priors.fit(network(), grouping="layer")
    assert len(by_layer.log_prob(network(channels=2))["first"]) == 8
    positions = graft.priors.fit(network(), AROUND)
    with pytest.raises(ModelError, match="other layers"):
        positions.log_prob(network(channels=2))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = (torch.rand(2, 8, 8, 8, generator=generator) > 0.6).long()
    images = labels[:, None] + 0.3 * torch.randn(2, 1, 8, 8, 8, generator=generator)
    return images, labels


@pytest.mark.parametrize("density", ["gaussian", SMALL_VAE])
def test_a_training_loop_learns_and_stays_with_its_prior(density: str | dict) -> None:
    prior = graft.priors.fit([network(1), network(2)], density)
    fitted = {name: tensor.clone() for name, tensor in prior.densities["all"].state_dict().items()}
    images, labels = batch()

    def learn(weight: float) -> tuple[float, float, graft.posteriors.BayesianModule]:
        model = graft.posteriors.bayesian(network(3), prior)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(40):
            data = nn.functional.cross_entropy(model(images), labels)
            loss = data + weight * model.kl() / labels.numel()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(data.detach()))
        return losses[0], losses[-1], model

    first, last, loose = learn(0.0)
    assert last < 0.7 * first
    *_, held = learn(1.0)
    assert float(held.kl().detach()) < 0.7 * float(loose.kl().detach())
    # Several models may share a prior: what is learned of it is each model's own.
    assert all(torch.equal(fitted[name], tensor) for name, tensor in prior.densities["all"].state_dict().items())
    held.eval()
    torch.testing.assert_close(held(images), held(images))
    drawn = list(held.draws(images, 3))
    assert len(drawn) == 3
    assert not torch.equal(drawn[0], drawn[1])


def test_the_divergence_is_that_of_the_draw_of_the_data_term() -> None:
    prior = graft.priors.fit(network(1), {"kind": "gaussian_mixture", "components": 2})
    model = graft.posteriors.bayesian(network(2), prior, {"initial_log_variance": -2.0, "relative_to_layer": False})
    images, _ = batch()
    model(images)
    drawn = model._draw.filters.detach()
    entropy = 27 * len(drawn) * 0.5 * (torch.log(torch.tensor(2 * torch.pi)) + 1 - 2.0)
    expected = -entropy - prior.densities["all"].log_prob(drawn).sum()
    torch.testing.assert_close(model.kl().detach(), expected, rtol=1e-4, atol=1e-2)
    assert torch.equal(model.kl(), model.kl())


def test_the_divergence_from_a_gaussian_is_exact() -> None:
    prior = graft.priors.fit(network(1), {"kind": "gaussian", "covariance": "isotropic", "zero_mean": True})
    model = graft.posteriors.bayesian(network(2), prior, {"initial_log_variance": -2.0, "relative_to_layer": False})
    deviation = prior.densities["all"].pooled.colouring[0, 0]
    normals = [torch.distributions.Normal(model.bayesian.posterior.means, torch.tensor(math.exp(-1.0)))]
    normals.append(torch.distributions.Normal(0.0, deviation))
    expected = torch.distributions.kl_divergence(*normals).sum()
    for _ in range(2):
        model(batch()[0])
        torch.testing.assert_close(model.kl(), expected, rtol=1e-4, atol=1e-2)


def test_a_network_that_the_prior_does_not_fit_stays_as_it_was() -> None:
    by_layer = graft.priors.fit(network(), grouping="layer")
    other = nn.Sequential(nn.Conv3d(1, 2, 3))
    with pytest.raises(ModelError, match="other layers"):
        graft.posteriors.bayesian(other, by_layer)
    assert all(parameter.requires_grad for parameter in other.parameters())
    with pytest.raises(ConfigError, match=r"posterior: .*initial"):
        graft.posteriors.bayesian(network(), graft.priors.fit(network()), {"initial": 1})
