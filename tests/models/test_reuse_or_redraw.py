import math

import pytest
import torch

from models.filter_bank import FilterBank
from models.priors.gaussian import GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedraw, ReuseOrRedrawOptions


def bank_of_snapshots():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    filters = (base + 0.05 * torch.randn(4, 300, 3, generator=generator, dtype=torch.float64)).reshape(-1, 3)
    flat = torch.arange(300).repeat(4)
    zeros = torch.zeros_like(flat)
    return FilterBank(filters, flat % 2, flat, zeros, zeros, torch.arange(4).repeat_interleave(300))


def fitted(**options):
    position = GaussianOptions(covariance="isotropic", centre="source_position", std_floor=0.01)
    prior = ReuseOrRedraw(ReuseOrRedrawOptions(position=position, shape=GaussianOptions(), **options), 3).double()
    bank = bank_of_snapshots()
    prior.fit(bank, torch.Generator().manual_seed(0))
    return prior, bank


def test_density_is_the_mixture_of_its_parts():
    prior, bank = fitted(reuse=0.7)
    position = prior.position.log_prob(bank.filters, bank.positions).exp()
    shape = prior.shape.log_prob(bank.filters, bank.positions).exp()
    expected = torch.log(0.7 * position + 0.3 * shape)
    assert torch.allclose(prior.log_prob(bank.filters, bank.positions), expected)


def test_it_knows_which_filters_are_reused():
    prior, bank = fitted()
    filters = bank.filters.clone()
    filters[::2] = filters.flip(0)[::2]
    with torch.no_grad():
        reused = prior.reuse_probability(filters, bank.positions)
    assert float(reused[1::2].mean()) > 0.8
    assert float(reused[::2].mean()) < 0.1


def test_learned_probability_moves_towards_the_truth_and_the_spread_is_held():
    prior, bank = fitted(learn=True)
    prior.freeze_for_target()
    filters, where = bank.filters[:300].clone(), bank.positions[:300]
    filters[where.layer == 1] = filters[where.layer == 1].flip(0)  # layer 0 reused, layer 1 redrawn
    optimiser = torch.optim.Adam(prior.variational_parameters(), lr=0.05)
    for _ in range(300):
        loss = -(prior.log_prob(filters, where).sum() + prior.hyperprior_log_prob())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learned = torch.sigmoid(prior.reuse_logit)
    assert float(learned[0]) > 0.8
    assert float(learned[1]) < 0.2
    # Filters that sit exactly on the source's would shrink s to nothing without the hyperprior.
    exact = prior.position.at_positions().centres(where)
    for _ in range(300):
        loss = -(prior.log_prob(exact, where).sum() / 300 + prior.hyperprior_log_prob())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(prior.log_spread.min()) > -2


def test_hyperprior_is_a_normal_density():
    prior, _ = fitted(learn=True, reuse=0.5, reuse_deviation=2.0, spread_deviation=0.5)
    at_centre = -math.log(2 * math.pi) * 2 - 2 * (math.log(2.0) + math.log(0.5))
    assert float(prior.hyperprior_log_prob()) == pytest.approx(at_centre)
    with torch.no_grad():
        prior.log_spread[0] = 1.0
    assert float(prior.hyperprior_log_prob()) == pytest.approx(at_centre - 2.0)


def test_nothing_is_learned_unless_asked():
    prior, _ = fitted()
    assert prior.variational_parameters() == []
    assert float(prior.hyperprior_log_prob()) == 0.0
