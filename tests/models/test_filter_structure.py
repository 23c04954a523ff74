"""How many directions trained filters use, and how much of them is their start: closed forms in float64."""

from __future__ import annotations

import math

import pytest
import torch

from models.filter_structure import effective_dimension, filter_spectrum, share_under, start_shares


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_covariance(eigenvalues: list[float]) -> torch.Tensor:
    """Filters in rotated axes whose covariance has exactly these eigenvalues."""
    size = len(eigenvalues)
    axes = torch.cat([torch.eye(size, dtype=torch.float64), -torch.eye(size, dtype=torch.float64)])
    rotation = torch.linalg.qr(normal(size, size)).Q
    return axes * torch.tensor([size * value for value in eigenvalues], dtype=torch.float64).sqrt() @ rotation


@pytest.mark.parametrize(
    ("eigenvalues", "dimension"),
    [([2.0] * 27, 27.0), ([5.0] + [0.0] * 26, 1.0), ([1.0] * 3 + [0.0] * 24, 3.0), ([3.0, 1.0], 16 / 10)],
)
def test_the_effective_dimension_is_that_of_the_eigenvalues(eigenvalues: list[float], dimension: float) -> None:
    filters = with_covariance(eigenvalues)
    spectrum = filter_spectrum(filters)
    torch.testing.assert_close(spectrum, torch.tensor(sorted(eigenvalues, reverse=True), dtype=torch.float64))
    assert effective_dimension(spectrum) == pytest.approx(dimension)
    # A filter that all share is no direction in which they differ, and neither is their scale.
    moved = filter_spectrum(0.01 * filters + normal(1, len(eigenvalues)))
    assert effective_dimension(moved) == pytest.approx(dimension)


def test_filters_that_are_all_zero_have_no_structure() -> None:
    zero = torch.zeros(5, 27)
    assert effective_dimension(filter_spectrum(zero)) == 0.0
    shares = start_shares(zero, normal(5, 27))
    assert (shares.still_start, shares.start_left) == (0.0, 0.0)


@pytest.mark.parametrize("factor", [1.0, 0.2, -3.0])
def test_filters_that_were_only_scaled_are_nothing_but_their_start(factor: float) -> None:
    start = normal(50, 27)
    shares = start_shares(factor * start, start)
    assert shares.still_start == pytest.approx(1.0)
    assert shares.start_left == pytest.approx(factor**2)


def test_a_start_that_is_forgotten_leaves_nothing_and_chance_is_no_memory() -> None:
    count = 20_000
    start, now = normal(count, 27), 0.3 * normal(count, 27, seed=1)
    shares = start_shares(now, start)
    # Of 27 numbers 1/27 is projected by chance, with a variance of 2 · 26 / (27² · 29) for one filter.
    assert shares.still_start == pytest.approx(0.0, abs=4 * math.sqrt(2 / count) / 27)
    assert shares.start_left == pytest.approx(0.09 * shares.still_start, rel=0.05)
    raw = float(((now * start).sum(1).square() / start.square().sum(1)).sum() / now.square().sum())
    assert raw == pytest.approx(1 / 27, rel=0.05)


def test_what_training_added_is_set_against_the_start() -> None:
    # The start keeps half its length, and three times that energy is learned.
    count = 20_000
    start = normal(count, 27)
    shares = start_shares(0.5 * start + math.sqrt(0.75) * normal(count, 27, seed=1), start)
    assert shares.still_start == pytest.approx(0.25, abs=0.005)
    assert shares.start_left == pytest.approx(0.25, abs=0.005)


def test_dead_filters_do_not_hide_that_the_living_never_moved() -> None:
    start = normal(400, 27)
    now = start.clone()
    now[::4] = start[::4] * 1e-4
    now[1::4] = 0.0
    shares = start_shares(now, start)
    assert shares.still_start == pytest.approx(1.0)
    assert shares.start_left == pytest.approx(float(now.square().sum() / start.square().sum()))


def test_filters_at_the_norm_threshold_are_under_it_as_in_a_fit() -> None:
    filters = torch.tensor([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0], [0.0, 0.5001]], dtype=torch.float64)
    assert share_under(filters, 0.5) == 0.5
    assert share_under(filters, 0.0) == 0.25
