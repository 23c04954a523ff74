"""Dead filters in a density: the spike takes those under the norm threshold, the slab is fitted to the others."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from data.errors import ModelError
from models.filter_bank import FilterBank
from models.priors.factory import build_prior, fits_dead_filters, load_prior, with_norm_threshold
from models.priors.gaussian import Gaussian
from models.priors.gaussian_options import GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.spike_and_slab import NORM_THRESHOLD, SpikeAndSlab, SpikeAndSlabOptions

THRESHOLD = 0.1


def bank_of(filters: torch.Tensor) -> FilterBank:
    row = torch.arange(len(filters))
    return FilterBank(filters, 0 * row, row, 0 * row, 0 * row, 0 * row)


def normal(count: int, deviation: float, seed: int = 0) -> torch.Tensor:
    return deviation * torch.randn(count, 27, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(filters: torch.Tensor, **options) -> SpikeAndSlab:
    prior = build_prior(SpikeAndSlabOptions(**({"norm_threshold": THRESHOLD} | options))).double()
    assert isinstance(prior, SpikeAndSlab)
    prior.fit(bank_of(filters))
    return prior


def test_spike_and_slab_are_those_of_the_filters_on_each_side_of_the_threshold() -> None:
    dead, living = normal(2999, 0.005), normal(999, 0.3, seed=1)
    prior = fitted(torch.cat([dead, living]))
    assert float(prior.logit_dead.sigmoid()) == pytest.approx(0.75)
    assert float(prior.log_std.exp()) == pytest.approx(float(dead.square().mean().sqrt()))
    slab = Gaussian(GaussianOptions()).double()
    slab.fit(bank_of(living))
    seen = torch.cat([normal(5, 0.005, seed=2), normal(5, 0.3, seed=3), normal(5, 0.02, seed=4)])
    spike = torch.distributions.Normal(0.0, prior.log_std.exp()).log_prob(seen).sum(1)
    expected = torch.logaddexp(math.log(0.75) + spike, math.log(0.25) + slab.log_prob(seen))
    torch.testing.assert_close(prior.log_prob(seen), expected)


def test_it_describes_all_filters_where_a_slab_alone_describes_the_living() -> None:
    dead, living = normal(3000, 0.005), normal(1000, 0.3, seed=1)
    unseen = torch.cat([normal(300, 0.005, seed=2), normal(100, 0.3, seed=3)])
    scores = {"spike": fitted(torch.cat([dead, living])).log_prob(unseen).mean()}
    for name, filters in {"living": living, "all": torch.cat([dead, living])}.items():
        one = Gaussian(GaussianOptions()).double()
        one.fit(bank_of(filters))
        scores[name] = one.log_prob(unseen).mean()
    assert scores["spike"] > scores["all"] + 10
    assert scores["spike"] > scores["living"] + 10
    # The entropies of both parts and of the division are all that it costs.
    entropy = 0.75 * 27 * math.log(0.005) + 0.25 * 27 * math.log(0.3) + 13.5 * math.log(2 * math.pi * math.e)
    assert float(-scores["spike"]) == pytest.approx(entropy + 0.5623, abs=1.0)


def test_samples_are_dead_as_often_as_the_filters() -> None:
    prior = fitted(torch.cat([normal(3000, 0.005), normal(1000, 0.3, seed=1)]))
    norms = prior.sample(4000, torch.Generator().manual_seed(0)).norm(dim=1)
    assert float((norms <= THRESHOLD).double().mean()) == pytest.approx(0.75, abs=0.03)


def test_filters_that_are_exactly_zero_get_a_finite_density() -> None:
    living = normal(100, 0.3)
    prior = fitted(torch.cat([torch.zeros(300, 27, dtype=torch.float64), living]), std_floor=0.02)
    assert float(prior.log_std.exp()) == pytest.approx(0.02 * float(living.square().mean().sqrt()))
    assert torch.isfinite(prior.log_prob(torch.zeros(1, 27, dtype=torch.float64))).all()


def test_without_dead_filters_it_is_the_slab_and_excludes_none() -> None:
    living = normal(400, 0.3)
    prior = fitted(living)
    assert float(prior.logit_dead.sigmoid()) == pytest.approx(1 / 402)
    torch.testing.assert_close(prior.log_prob(living), prior.slab.log_prob(living) + math.log(401 / 402))


def test_a_group_without_living_filters_is_refused() -> None:
    with pytest.raises(ModelError, match="lower the norm threshold"):
        fitted(normal(50, 0.001))


def test_a_slab_around_source_positions_is_refused() -> None:
    with pytest.raises(ValidationError, match="set its centre to pooled"):
        SpikeAndSlabOptions(slab=GaussianOptions(centre="source_position"))


def test_the_threshold_of_a_study_is_taken_where_the_density_has_none_of_its_own() -> None:
    plain, own = SpikeAndSlabOptions(), SpikeAndSlabOptions(norm_threshold=0.5)
    assert with_norm_threshold(plain, 0.2) == SpikeAndSlabOptions(norm_threshold=0.2)
    assert with_norm_threshold(own, 0.2) == own
    nested = with_norm_threshold(ReuseOrRedrawOptions(shape=plain), 0.2)
    assert nested == ReuseOrRedrawOptions(shape=SpikeAndSlabOptions(norm_threshold=0.2))
    assert with_norm_threshold(GaussianOptions(), 0.2) == GaussianOptions()
    assert [fits_dead_filters(options) for options in (plain, nested, GaussianOptions(), ReuseOrRedrawOptions())] == [
        True, True, False, False,
    ]  # fmt: skip
    # A fitted density does not need it again.
    filters = torch.cat([normal(30, NORM_THRESHOLD / 20), normal(10, 0.3, seed=1)])
    prior = fitted(filters, norm_threshold=None)
    assert float(prior.logit_dead.sigmoid()) == pytest.approx(31 / 42)
    torch.testing.assert_close(load_prior(plain, prior.state_dict()).log_prob(filters), prior.log_prob(filters))
