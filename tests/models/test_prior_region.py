"""The share of filters that have left a prior: .01 of its own draws, none of its modes, all that are far away."""

from __future__ import annotations

import math

import pytest
import torch

from models.filter_bank import FilterBank
from models.filters import FilterPositions
from models.prior_region import PriorRegion
from models.priors.factory import PriorOptions, build_prior
from models.priors.gaussian_mixture import GaussianMixtureOptions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import FilterPrior
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.spike_and_slab import SpikeAndSlabOptions
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_options import FilterVAEOptions

AT_POSITIONS = GaussianOptions(centre=Centre.SOURCE_POSITION, covariance=Covariance.DIAGONAL, shrinkage=0.1)
OPTIONS: dict[str, PriorOptions] = {
    "full": GaussianOptions(),
    "by layer": GaussianOptions(scaling=Scaling.LAYER),
    "at positions": AT_POSITIONS,
    "mixture": GaussianMixtureOptions(components=2),
    "spike and slab": SpikeAndSlabOptions(slab=GaussianOptions()),
    "reuse or redraw": ReuseOrRedrawOptions(position=AT_POSITIONS, shape=GaussianOptions()),
    "vae": FilterVAEOptions(latent=2, hidden=(8,), max_steps=30, batch=64, start_at_gaussian=False),
}
REPEATS = 60


def trajectory() -> FilterBank:
    """Snapshots of 400 filters in two layers, whose scales and whose spreads between snapshots differ widely."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.arange(400)
    layer = (flat >= 200).long()
    scales = torch.exp(1.5 * torch.randn(400, 1, generator=generator, dtype=torch.float64)) * (1 + 9 * layer[:, None])
    centres = scales * torch.randn(400, 4, generator=generator, dtype=torch.float64)
    snapshots = []
    for number in range(6):
        filters = centres + 0.3 * scales * torch.randn(400, 4, generator=generator, dtype=torch.float64)
        column = torch.full_like(flat, number)
        snapshots.append(FilterBank(filters, layer, flat // 20, flat % 20, torch.zeros_like(flat), column))
    return FilterBank.concatenate(snapshots)


@pytest.fixture(scope="module", params=OPTIONS)
def prior(request) -> FilterPrior:
    built = build_prior(OPTIONS[request.param], 4).double()
    built.fit(trajectory(), torch.Generator().manual_seed(0))
    return built


@pytest.fixture(scope="module")
def where() -> FilterPositions:
    return trajectory().last_snapshots().positions


def region(prior: FilterPrior, where: FilterPositions, seed: int = 0) -> PriorRegion:
    rows = torch.arange(5, 405)
    return PriorRegion.of(prior, rows, where, 1, torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_of_draws_from_the_prior_one_percent_have_left_it_at_every_scale(prior: FilterPrior, where) -> None:
    generator = torch.Generator().manual_seed(1)
    before = torch.zeros(5, 4, dtype=torch.float64)
    shares, by_layer = [], []
    for seed in range(REPEATS):
        own = region(prior, where, seed)
        drawn = torch.cat([before, prior.sample(where, generator)])
        shares.append(own.share_outside(drawn, generator))
        scores = prior.log_prob(drawn[own.rows], own.where, 1, generator)
        by_layer.append([float((scores < own.least)[own.where.layer == k].double().mean()) for k in (0, 1)])
    found = torch.tensor(shares)
    assert float(found.mean()) == pytest.approx(0.01, abs=4 * float(found.std()) / math.sqrt(REPEATS) + 1e-4)
    if prior.needs_positions:
        # Neither the wide layer alone nor the narrow one.
        each = torch.tensor(by_layer)
        errors = each.std(0) / math.sqrt(REPEATS) + 1e-4
        assert ((each.mean(0) - 0.01).abs() < 4 * errors).all()


def test_what_is_far_away_has_left_it_and_its_middle_has_not(prior: FilterPrior, where) -> None:
    own, generator = region(prior, where), torch.Generator().manual_seed(2)
    draws = torch.stack([prior.sample(where, generator) for _ in range(50)])
    before = torch.zeros(5, 4, dtype=torch.float64)
    far = draws.mean(0) + 100 * draws.std(0)
    assert own.share_outside(torch.cat([before, far]), generator) == 1
    # The best of many draws at each position.
    scores = torch.stack([prior.log_prob(own_draws, where, 1, generator) for own_draws in draws])
    best = draws[scores.argmax(0), torch.arange(len(where))]
    assert own.share_outside(torch.cat([before, best]), generator) == 0


def test_the_choice_is_a_function_of_the_generator(prior: FilterPrior, where) -> None:
    first, again, other = (region(prior, where, seed) for seed in (0, 0, 1))
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.least, again.least)
    assert not torch.equal(first.rows, other.rows)
    assert len(first.rows) == 256
    assert int(first.rows.min()) >= 5
