import logging
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.decomposition import PCA

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.filters import FilterPositions
from models.priors.gaussian import Gaussian
from models.priors.gaussian_options import GaussianOptions


def bank_of(filters, layer, out, snapshot, network=0):
    zeros = torch.zeros_like(layer)
    return FilterBank(filters, layer, out, zeros, zeros + network, snapshot)


def simple_bank(filters):
    index = torch.arange(len(filters))
    return bank_of(filters, torch.zeros_like(index), index, torch.zeros_like(index))


@pytest.fixture
def correlated():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    return torch.randn(3000, 5, generator=generator, dtype=torch.float64) @ mixing + 2.0


def fitted(filters, **options):
    prior = Gaussian(GaussianOptions(**options), filters.shape[1]).double()
    prior.fit(simple_bank(filters))
    return prior


def test_isotropic_and_diagonal_match_torch(correlated):
    mean, std = correlated.mean(0), correlated.std(0, unbiased=False)
    diagonal = torch.distributions.Normal(mean, std).log_prob(correlated).sum(1)
    assert torch.allclose(fitted(correlated, covariance="diagonal").log_prob(correlated), diagonal)
    pooled = torch.distributions.Normal(mean, std.square().mean().sqrt()).log_prob(correlated).sum(1)
    assert torch.allclose(fitted(correlated, covariance="isotropic").log_prob(correlated), pooled)


def test_full_is_the_maximum_likelihood_gaussian_up_to_a_small_shrinkage(correlated):
    exact = torch.distributions.MultivariateNormal(correlated.mean(0), correlated.T.cov(correction=0))
    difference = fitted(correlated).log_prob(correlated).mean() - exact.log_prob(correlated).mean()
    assert -0.01 < float(difference) <= 1e-9


def test_full_is_usable_with_fewer_filters_than_numbers():
    generator = torch.Generator().manual_seed(0)
    few, held_out = (torch.randn(n, 27, generator=generator, dtype=torch.float64) for n in (16, 500))
    score = float(fitted(few).log_prob(held_out).mean())
    truth = -0.5 * 27 * (1 + math.log(2 * math.pi))
    assert truth - 5 < score < truth


def test_low_rank_is_probabilistic_pca(correlated):
    prior = fitted(correlated, covariance="low_rank", rank=2)
    # scikit-learn divides by n − 1, maximum likelihood by n: feed it data scaled to agree.
    scaled = correlated.mean(0) + (correlated - correlated.mean(0)) * math.sqrt((len(correlated) - 1) / len(correlated))
    reference = PCA(2).fit(scaled.numpy()).score_samples(correlated.numpy())
    assert np.allclose(prior.log_prob(correlated).numpy(), reference)


def test_zero_mean_keeps_the_mean_at_zero(correlated):
    assert torch.equal(fitted(correlated, zero_mean=True).pooled.mean, torch.zeros(5).double())


def test_layer_scaling_makes_layers_comparable():
    generator = torch.Generator().manual_seed(0)
    layer = torch.arange(2000) % 2
    filters = (
        torch.randn(2000, 4, generator=generator, dtype=torch.float64) * torch.where(layer == 0, 1.0, 50.0)[:, None]
    )
    zeros = torch.zeros_like(layer)
    bank = FilterBank(filters, layer, torch.arange(2000), zeros, zeros, zeros)
    scores = {}
    for scaling in ("none", "layer"):
        prior = Gaussian(GaussianOptions(scaling=scaling), 4).double()
        prior.fit(bank)
        scores[scaling] = float(prior.log_prob(filters, bank.positions).mean())
    # Truth: the mean of the entropies of both layers with the sign turned.
    truth = -0.5 * 4 * (1 + math.log(2 * math.pi)) - 4 * 0.5 * math.log(50.0)
    assert scores["layer"] == pytest.approx(truth, abs=0.1)
    assert scores["none"] < truth - 2


def trajectory(positions=400, snapshots=6, std=0.05, seed=0):
    """Snapshots that vary independently about a base at every position of one layer."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(positions, 4, generator=generator, dtype=torch.float64)
    draws = base + std * torch.randn(snapshots, positions, 4, generator=generator, dtype=torch.float64)
    out = torch.arange(positions).repeat(snapshots)
    snapshot = torch.arange(snapshots).repeat_interleave(positions)
    return base, bank_of(draws.reshape(-1, 4), torch.zeros_like(out), out, snapshot)


def position_prior(bank, **options):
    prior = Gaussian(GaussianOptions(centre="source_position", **{"std_floor": 0.001, **options}), 4).double()
    prior.fit(bank)
    return prior


def where_of(out):
    return FilterPositions(torch.zeros_like(out), out, torch.zeros_like(out))


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full", "low_rank"])
def test_spread_at_a_position_is_that_of_the_snapshots(covariance):
    base, bank = trajectory()
    prior = position_prior(bank, covariance=covariance)
    where = where_of(torch.arange(400).repeat_interleave(100))
    draws = prior.sample(where, torch.Generator().manual_seed(0)).reshape(400, 100, 4)
    deviation = draws - prior.at_positions().centres(where).reshape(400, 100, 4)
    assert float(deviation.std()) == pytest.approx(0.05, rel=0.1)
    assert float((draws.mean(1) - base).std()) < 0.05


def test_right_positions_score_higher_than_wrong_ones():
    base, bank = trajectory()
    prior = position_prior(bank, covariance="isotropic")
    right = prior.log_prob(base, where_of(torch.arange(400)))
    wrong = prior.log_prob(base, where_of(torch.arange(400).roll(1)))
    assert float(right.mean() - wrong.mean()) > 100


def test_last_snapshot_is_the_centre_if_asked():
    _, bank = trajectory()
    shuffled = bank[torch.randperm(len(bank), generator=torch.Generator().manual_seed(0))]
    prior = position_prior(shuffled, covariance="isotropic", last_snapshot=True)
    last = bank[bank.snapshot == 5]
    assert torch.equal(prior.at_positions().centres(last.positions), last.filters)


def test_spread_factor_floor_and_fixed_deviation():
    _, bank = trajectory(std=0.05)
    narrow = position_prior(bank, covariance="isotropic").at_positions().variances
    wide = position_prior(bank, covariance="isotropic", spread=3.0).at_positions().variances
    assert torch.allclose(wide, 9 * narrow)
    mean_square = float(bank.filters.square().mean())
    floored = position_prior(bank, covariance="isotropic", std_floor=0.5).at_positions().variances
    assert torch.allclose(floored, torch.full_like(floored, 0.25 * mean_square))
    fixed = position_prior(bank[bank.snapshot == 0], covariance="isotropic", relative_std=0.2).at_positions()
    mean_square = float(bank[bank.snapshot == 0].filters.square().mean())
    assert torch.allclose(fixed.variances, torch.full_like(fixed.variances, 0.04 * mean_square))


def test_low_rank_follows_the_direction_in_which_a_position_moved():
    """Snapshots move along one direction, a different one at each position."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(50, 4, generator=generator, dtype=torch.float64), dim=1)
    steps = torch.randn(8, 50, 1, generator=generator, dtype=torch.float64)
    filters = (steps * directions).reshape(-1, 4)
    out = torch.arange(50).repeat(8)
    bank = bank_of(filters, torch.zeros_like(out), out, torch.arange(8).repeat_interleave(50))
    prior = position_prior(bank, covariance="low_rank", rank=8)
    where = where_of(torch.arange(50))
    centre = prior.at_positions().centres(where)
    along = prior.log_prob(centre + 2 * directions, where)
    across = prior.log_prob(centre + 2 * directions.roll(1, 0), where)
    assert float((along - across).mean()) > 1.0


def test_positions_of_two_networks_are_not_pooled():
    _, bank = trajectory()
    other = bank_of(bank.filters, bank.layer, bank.out_index, bank.snapshot, network=1)
    both = FilterBank.concatenate([bank, other])
    with pytest.raises(ModelError, match="2 networks"):
        position_prior(both, covariance="isotropic")
    prior = position_prior(both, covariance="isotropic", network=1)
    alone = position_prior(other, covariance="isotropic")
    assert torch.equal(prior.at_positions().means, alone.at_positions().means)


def test_one_snapshot_needs_a_fixed_deviation():
    _, bank = trajectory(snapshots=1)
    with pytest.raises(ModelError, match="two snapshots"):
        position_prior(bank, covariance="isotropic")


def test_positions_the_source_lacks_get_a_pooled_density_and_a_note(caplog):
    _, bank = trajectory()
    prior = position_prior(bank, covariance="isotropic")
    pooled = Gaussian(GaussianOptions(covariance="isotropic", zero_mean=True), 4).double()
    pooled.fit(bank)
    filters = torch.randn(3, 4, dtype=torch.float64)
    with caplog.at_level(logging.INFO):
        score = prior.log_prob(filters, where_of(torch.tensor([9000, 1, 9001])))
    assert torch.allclose(score[[0, 2]], pooled.log_prob(filters[[0, 2]]))
    assert "2 filters at positions" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        prior.log_prob(filters, where_of(torch.tensor([9000, 1, 9001])))
    assert not caplog.text  # a training asks at every step


def test_settings_that_contradict_are_refused():
    with pytest.raises(ValidationError, match="relative_std"):
        GaussianOptions(covariance="full", relative_std=0.1)
