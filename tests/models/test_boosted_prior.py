import math

import pytest
import torch

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.priors.boosted_prior import (
    BoostedMixture,
    BoostingObjective,
    BoostingSettings,
    aggregate_posterior,
    best_share,
    boost,
)
from models.priors.filter_vae import FilterVAE
from models.priors.latent_prior import NormalMixture
from models.priors.vae_options import FilterVAEOptions

SETTINGS = BoostingSettings(BoostingObjective.EXACT, weight=1.0, steps=40, subset=200)


def normal(mean, std=0.3):
    means = torch.tensor([[mean, 0.0]], dtype=torch.float64)
    return NormalMixture(torch.zeros(1).double(), means, torch.full_like(means, 2 * math.log(std)))


def encode(filters, _rows):
    """An encoder that is the identity with a narrow spread."""
    return filters, torch.full_like(filters, 2 * math.log(0.3))


def test_log_density_and_draws_are_those_of_torch_distributions():
    mixture = normal(0.0).joined(normal(3.0, 0.5), 0.25)
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.75, 0.25]).double()),
        torch.distributions.Independent(
            torch.distributions.Normal(mixture.means, (0.5 * mixture.log_variances).exp()), 1
        ),
    )
    points = torch.randn(50, 2, dtype=torch.float64)
    assert torch.allclose(mixture.log_prob(points), reference.log_prob(points))
    draws = mixture.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), reference.mean, atol=0.05)
    assert torch.allclose(draws.var(0), reference.variance, rtol=0.05)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_best_share_is_the_true_one(share):
    best = normal(0.0).joined(normal(4.0), share)
    found = best_share(normal(4.0), normal(0.0), best, torch.Generator().manual_seed(0))
    assert found == pytest.approx(share, abs=0.02)


def test_each_new_component_goes_where_the_prior_lacks_most():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, -5.0]], dtype=torch.float64)
    filters = centres[torch.randint(0, 3, (600,), generator=generator)]
    filters = filters + 0.1 * torch.randn(600, 2, generator=generator, dtype=torch.float64)
    best = aggregate_posterior(encode, filters, None, 400, generator)
    prior = BoostedMixture(2, 2).double()
    gaps = []
    for _ in range(3):
        boost(prior, encode, best, filters, None, SETTINGS, generator)
        draws = best.sample(2000, generator)
        gaps.append(float((best.log_prob(draws) - prior.log_prob(draws)).mean()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.4
    assert sorted(torch.cdist(prior.means, centres).argmin(1).tolist()) == [0, 1, 2]
    assert prior.log_weights.exp().tolist() == pytest.approx([1 / 3] * 3, abs=0.15)


def test_printed_objective_runs_away_where_the_prior_is_narrow_and_the_exact_one_does_not():
    generator = torch.Generator().manual_seed(0)
    best = normal(0.0).joined(normal(4.0), 0.5)
    filters = best.means.repeat(50, 1)
    distance = {}
    for objective in BoostingObjective:
        prior = BoostedMixture(2, 2).double()
        settings = BoostingSettings(objective, weight=1.0, steps=100, subset=100)
        for _ in range(2):
            boost(prior, encode, best, filters, None, settings, generator)
        distance[objective] = float(torch.cdist(prior.means[1:], best.means).min())
    assert distance[BoostingObjective.EXACT] < 0.3
    assert distance[BoostingObjective.FIRST_ORDER] > 2.0


def bank_of(filters):
    index = torch.arange(len(filters))
    zeros = torch.zeros_like(index)
    return FilterBank(filters, zeros, index, zeros, zeros, zeros)


def curve(phase, count, generator):
    """Kernels along a curve that a latent of one dimension describes; two phases are two source sets."""
    angle = phase + 0.4 * torch.randn(count, 1, generator=generator)
    waves = torch.linspace(0, 2, 27)[None]
    return torch.sin(3 * angle + waves * angle) + 0.05 * torch.randn(count, 27, generator=generator)


@pytest.mark.slow
def test_update_learns_the_new_set_and_remembers_the_old_one():
    generator = torch.Generator().manual_seed(0)
    first, second = (curve(phase, 1500, generator) for phase in (0.0, 2.0))
    old_test, new_test = (curve(phase, 300, generator) for phase in (0.0, 2.0))
    scores = {}
    for memory_weight in (0.0, 1.0):
        options = FilterVAEOptions(
            latent=2,
            hidden=(32,),
            latent_prior="boosted",
            components=4,
            component_steps=20,
            max_steps=150,
            batch=128,
            memory_weight=memory_weight,
            learning_rate=1e-2,
        )
        prior = FilterVAE(options)
        prior.fit(bank_of(first), torch.Generator().manual_seed(1))
        before = [
            float(prior.log_prob(t, None, 32, torch.Generator().manual_seed(0)).mean().detach())
            for t in (old_test, new_test)
        ]
        report = prior.update(bank_of(second), torch.Generator().manual_seed(2))
        after = [
            float(prior.log_prob(t, None, 32, torch.Generator().manual_seed(0)).mean().detach())
            for t in (old_test, new_test)
        ]
        scores[memory_weight] = before, after
        assert report.filters_used == 1500
        assert int(prior.sets) == 2
        assert float(prior.latent_prior.log_weights.exp().sum()) == pytest.approx(1.0)
    (before, after), (_, forgot) = scores[1.0], scores[0.0]
    assert after[1] > before[1] + 5
    assert after[0] > forgot[0] + 3


def test_components_stay_where_they_are_while_the_encoder_learns_on_the_target():
    generator = torch.Generator().manual_seed(0)
    options = FilterVAEOptions(latent=2, hidden=(8,), latent_prior="boosted", components=2, max_steps=20, batch=32)
    prior = FilterVAE(options)
    filters = curve(0.0, 200, generator)
    prior.fit(bank_of(filters), generator)
    prior.freeze_for_target()
    before = prior.latent_prior.means.clone()
    optimiser = torch.optim.SGD(prior.variational_parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        (-prior.log_prob(filters, None, 2, generator).mean()).backward()
        optimiser.step()
    assert torch.equal(prior.latent_prior.means, before)
    assert not prior.latent_prior.means.requires_grad


def test_a_standard_latent_cannot_be_updated():
    prior = FilterVAE(FilterVAEOptions(hidden=(8,), max_steps=3))
    bank = bank_of(torch.randn(100, 27))
    prior.fit(bank, torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="latent_prior: boosted"):
        prior.update(bank)
