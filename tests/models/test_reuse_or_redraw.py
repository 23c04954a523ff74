import math

import pytest
import torch

from models.filter_bank import FilterBank
from models.priors.factory import load_prior
from models.priors.gaussian_options import GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedraw, ReuseOrRedrawOptions
from models.priors.vae_options import FilterVAEOptions


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
        reuse = prior.position.at_positions().log_prob(filters, bank.positions)
        redraw = prior.shape.log_estimate(filters, bank.positions, 1, None)
    reused = torch.sigmoid(reuse - redraw)  # both are as likely beforehand
    assert float(reused[1::2].mean()) > 0.8
    assert float(reused[::2].mean()) < 0.1


def test_learned_probability_moves_towards_the_truth_and_the_spread_is_held():
    prior, bank = fitted(learn=True)
    prior.freeze_for_target()
    filters, where = bank.filters[:300].clone(), bank.positions[:300]
    filters[where.layer == 1] = filters[where.layer == 1].flip(0)  # layer 0 reused, layer 1 redrawn
    optimiser = torch.optim.Adam(prior.variational_parameters(), lr=0.05)
    for _ in range(150):
        loss = -(prior.log_prob(filters, where).sum() + prior.hyperprior_log_prob())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learned = torch.sigmoid(prior.reuse_logit)
    assert float(learned[0]) > 0.8
    assert float(learned[1]) < 0.2
    # Filters that sit exactly on the source's would shrink s to nothing without the hyperprior.
    exact = prior.position.at_positions().centres(where)
    for _ in range(150):
        loss = -(prior.log_prob(exact, where).sum() / 300 + prior.hyperprior_log_prob())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(prior.log_spread.min()) > -2


def test_one_latent_draw_bounds_the_mixture_from_below():
    # A curve in 9 dimensions, so that one draw of the VAE's bound is noisy; s as wide as makes both parts alike.
    generator = torch.Generator().manual_seed(0)
    curve = torch.tanh(torch.randn(600, 2, generator=generator) @ torch.randn(2, 9, generator=generator)) * 1.5
    filters = curve + 0.1 * torch.randn(600, 9, generator=generator)
    index, zeros = torch.arange(600), torch.zeros(600, dtype=torch.int64)
    bank = FilterBank(filters, zeros, index, zeros, zeros, zeros)
    position = GaussianOptions(covariance="isotropic", centre="source_position", relative_std=0.2)
    shape = FilterVAEOptions(latent=2, hidden=(32,), max_steps=400, batch=128, epochs=400)
    prior = ReuseOrRedraw(ReuseOrRedrawOptions(position=position, shape=shape), 9)
    prior.fit(bank, generator)
    where, narrow = bank.positions[:100], prior.position.at_positions()
    with torch.no_grad():
        # As far from the centres as makes the reused part as likely as the redrawn one: there noise counts most.
        redrawn = prior.shape.log_prob(filters[:100], None, 500, generator)
        at_centre = narrow.log_prob(narrow.centres(where), where)
        reached = (2 * (at_centre - redrawn).clamp_min(0)).sqrt() * 0.2 * filters.square().mean().sqrt()
        narrow.means[:100] = filters[:100] + reached[:, None] / 3.0
        exact = prior.log_prob(filters[:100], where, 2000, generator).mean()
        single = torch.stack([prior.log_prob(filters[:100], where, 1, generator).mean() for _ in range(100)])
    assert float(single.mean()) < float(exact) + 3 * float(single.std()) / len(single) ** 0.5


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


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "low_rank", "full"])
def test_a_learned_spread_never_falls_below_the_floor(covariance):
    position = GaussianOptions(covariance=covariance, centre="source_position", std_floor=0.01)
    options = ReuseOrRedrawOptions(position=position, shape=GaussianOptions(), learn=True)
    prior = ReuseOrRedraw(options, 3).double()
    bank = bank_of_snapshots()
    prior.fit(bank, torch.Generator().manual_seed(0))
    prior.freeze_for_target()
    where = bank.positions[:300]
    exact = prior.position.at_positions().centres(where)
    optimiser = torch.optim.Adam(prior.variational_parameters(), lr=0.1)
    for _ in range(100):
        # Summed over filters, as the objective sums them: one hyperprior per layer cannot hold against that.
        loss = -(prior.log_prob(exact, where).sum() + prior.hyperprior_log_prob())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        prior.log_spread.fill_(-40.0)
        floor = 0.01 * torch.stack([exact[where.layer == k].square().mean().sqrt() for k in (0, 1)])[where.layer]
        narrowest = torch.log(torch.sigmoid(prior.reuse_logit[where.layer])) - 1.5 * torch.log(2 * math.pi * floor**2)
        score = prior.log_prob(exact, where)
        # At a centre the reused part of an isotropic density is that of deviation `floor`, and no other is narrower.
        assert torch.all(score < narrowest + 0.01)
        if covariance == "isotropic":
            assert torch.allclose(score, narrowest, atol=0.01)
        rebuilt = load_prior(options, prior.state_dict())
        assert torch.allclose(rebuilt.log_prob(exact, where), score)
        spread = prior.sample(where, torch.Generator().manual_seed(0)) - exact
    assert float(spread.abs().median()) > 0.2 * float(floor.min())
