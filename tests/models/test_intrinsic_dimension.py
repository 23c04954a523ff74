"""Intrinsic dimension on surfaces whose dimension is known, and the size of a latent that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from models.filter_bank import FilterBank
from models.filter_structure import effective_dimension, filter_spectrum
from models.intrinsic_dimension import MOST_POINTS, maximum_likelihood_dimension, two_nearest_dimension
from models.priors.factory import build_prior, load_prior
from models.priors.filter_vae import FilterVAE
from models.priors.latent_size import intrinsic_dimension, latent_size
from models.priors.spike_and_slab import SpikeAndSlab, SpikeAndSlabOptions
from models.priors.vae_options import FilterVAEOptions

ESTIMATES = (maximum_likelihood_dimension, two_nearest_dimension)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_27(points: torch.Tensor) -> torch.Tensor:
    """The same points in rotated axes of 27 numbers, as filters have."""
    rotation = torch.linalg.qr(normal(27, 27, seed=9)).Q
    return points @ rotation[: points.shape[1]]


def sphere(dimension: int, count: int) -> torch.Tensor:
    points = normal(count, dimension + 1)
    return points / points.norm(dim=1, keepdim=True)


def swiss_roll(count: int) -> torch.Tensor:
    along, across = uniform(count, 2).T
    angle = 1.5 * math.pi * (1 + 2 * along)
    return torch.stack([angle * angle.cos(), 21 * across, angle * angle.sin()], dim=1)


@pytest.mark.parametrize("estimate", ESTIMATES)
@pytest.mark.parametrize(
    ("points", "dimension"),
    [
        (normal(1500, 1), 1), (normal(1500, 2), 2), (normal(1500, 5), 5), (uniform(1500, 3), 3),
        (sphere(2, 1500), 2), (sphere(5, 1500), 5), (swiss_roll(1500), 2),
    ],
)  # fmt: skip
def test_surfaces_in_27_dimensions_have_their_own_dimension(
    estimate: Callable[[torch.Tensor], float], points: torch.Tensor, dimension: int
) -> None:
    assert estimate(in_27(points)) == pytest.approx(dimension, rel=0.12)
    # Where and how large the surface is makes no difference.
    assert estimate(in_27(1e-3 * points) + 5) == pytest.approx(estimate(in_27(points)), rel=1e-6)


def test_a_curved_surface_has_fewer_dimensions_than_directions() -> None:
    points = in_27(sphere(2, 1500))
    assert effective_dimension(filter_spectrum(points)) == pytest.approx(3, rel=0.02)
    assert maximum_likelihood_dimension(points) == pytest.approx(2, rel=0.1)


def test_few_points_of_many_dimensions_show_fewer() -> None:
    points = normal(MOST_POINTS, 27)
    assert 17 < maximum_likelihood_dimension(points) < 20
    assert 19 < two_nearest_dimension(points) < 24


def test_the_inverse_is_the_mean_over_points_and_neighbours() -> None:
    # Neighbours of -3: 3 and 4 away; of 0: 1 and 3; of 1: 1 and 4.
    points = torch.tensor([[-3.0], [0.0], [1.0]], dtype=torch.float64)
    inverse = (math.log(4 / 3) + math.log(3) + math.log(4)) / 3
    assert maximum_likelihood_dimension(in_27(points), neighbours=2) == pytest.approx(1 / inverse)
    # 90 % of three points are two, whose F are 1/4 and 2/4.
    x, y = (math.log(4 / 3), math.log(3)), (-math.log(3 / 4), -math.log(2 / 4))
    expected = (x[0] * y[0] + x[1] * y[1]) / (x[0] ** 2 + x[1] ** 2)
    assert two_nearest_dimension(in_27(points)) == pytest.approx(expected)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_repeated_points_and_dead_filters_count_once(estimate: Callable[[torch.Tensor], float]) -> None:
    points = in_27(normal(400, 3))
    dead = torch.zeros(500, 27, dtype=torch.float64)
    repeated = torch.cat([points, points[:100], dead])
    assert estimate(repeated) == pytest.approx(estimate(torch.cat([points, dead[:1]])))
    assert estimate(points) == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_too_few_or_equally_distant_points_give_no_nonsense(estimate: Callable[[torch.Tensor], float]) -> None:
    assert estimate(torch.zeros(0, 27)) == 0
    assert estimate(torch.zeros(50, 27)) == 0
    assert estimate(normal(2, 27)) == 0
    assert estimate(torch.eye(27)) == 27


def test_of_many_points_some_are_drawn() -> None:
    points = in_27(normal(3 * MOST_POINTS, 2))
    first, again, other = (
        maximum_likelihood_dimension(points, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first == pytest.approx(2, rel=0.05)


def bank_of(*networks: torch.Tensor, snapshots: int = 1) -> FilterBank:
    """A bank of one layer in which each network has filters of its own, in as many snapshots that hardly differ."""
    parts = []
    for number, filters in enumerate(networks):
        for snapshot in range(snapshots):
            count = len(filters)
            own = filters + 1e-4 * normal(count, 27, seed=snapshot)
            rows = torch.arange(count)
            zero = torch.zeros(count, dtype=torch.int64)
            parts.append(FilterBank(own.float(), zero, rows, zero, zero + number, zero + snapshot))
    return FilterBank.concatenate(parts)


def test_networks_are_looked_at_one_by_one_and_at_their_end() -> None:
    plane, space = in_27(normal(600, 2)), in_27(normal(600, 6, seed=1))
    # Snapshots of a filter and branches of a trunk lie beside each other in all 27 directions.
    assert intrinsic_dimension(bank_of(plane, plane, snapshots=3)) == pytest.approx(2, rel=0.1)
    both = intrinsic_dimension(bank_of(plane, space))
    assert both == pytest.approx(2 / (1 / 2 + 1 / 6), rel=0.1)
    assert latent_size(bank_of(plane, space)) == math.ceil(both)


def test_a_latent_has_at_least_one_dimension_and_fewer_than_a_filter() -> None:
    assert latent_size(bank_of(torch.zeros(40, 27, dtype=torch.float64))) <= 26
    dead = bank_of(torch.zeros(40, 27, dtype=torch.float64))
    dead.filters.zero_()
    assert latent_size(dead) == 1
    assert latent_size(bank_of(torch.eye(27, dtype=torch.float64) * 1e6)) == 26


SMALL = {"hidden": (8,), "max_steps": 5, "batch": 64}


@pytest.mark.parametrize(
    "options", [FilterVAEOptions(latent="auto", **SMALL), FilterVAEOptions(latent="auto", latent_prior="boosted",
    components=2, component_steps=2, boost_subset=50, **SMALL), FilterVAEOptions(latent="auto", condition="layer",
    latent_prior="mixture", **SMALL)],
)  # fmt: skip
def test_a_vae_takes_its_latent_from_the_filters_and_keeps_it(options: FilterVAEOptions) -> None:
    bank = bank_of(in_27(normal(500, 3)))
    prior = build_prior(options)
    prior.fit(bank, torch.Generator().manual_seed(0))
    assert isinstance(prior, FilterVAE)
    assert prior.latent in (3, 4)
    mean, _ = prior.encode(bank.filters, bank.positions)
    assert mean.shape == (len(bank), prior.latent)
    again = load_prior(options, prior.state_dict())
    assert isinstance(again, FilterVAE)
    assert again.latent == prior.latent
    assert again.free_parameters() == prior.free_parameters()
    args = (bank.filters, bank.positions, 1, torch.Generator().manual_seed(1))
    first = prior.log_prob(*args)
    torch.testing.assert_close(again.log_prob(*args[:3], torch.Generator().manual_seed(1)), first)


def test_a_fixed_latent_has_the_state_that_it_always_had() -> None:
    fixed = build_prior(FilterVAEOptions(latent=3, hidden=(8,)))
    assert "latent" not in " ".join(name for name in fixed.state_dict() if "latent_prior" not in name)
    assert fixed.state_dict()["encoder.mean.weight"].shape == (3, 8)
    assert FilterVAEOptions().model_dump(mode="json")["latent"] == 6


def test_the_part_of_another_density_takes_its_latent_too() -> None:
    options = SpikeAndSlabOptions(slab=FilterVAEOptions(latent="auto", **SMALL), norm_threshold=0.01)
    prior = build_prior(options)
    filters = torch.cat([in_27(normal(500, 3)), 1e-5 * normal(100, 27)])
    prior.fit(bank_of(filters), torch.Generator().manual_seed(0))
    again = load_prior(options, prior.state_dict())
    assert isinstance(again, SpikeAndSlab)
    assert isinstance(again.slab, FilterVAE)
    assert again.slab.latent in (3, 4)


@pytest.mark.parametrize("latent", [0, -1, "automatic", 2.5])
def test_other_latents_are_refused(latent: object) -> None:
    with pytest.raises(ValueError, match="latent"):
        FilterVAEOptions.model_validate({"latent": latent})
