from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.borders import content_box, even_box


def _scan(shape=(20, 24, 16), seed=0):
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def _head(spacing=2.0, noise=0.0, shape=(110, 120, 100), radii=(70.0, 85.0, 66.0)):
    """A ball of 1000 with texture in air of Rician noise, and the box of the ball."""
    rng = np.random.default_rng(1)
    index = (np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2) * spacing
    ball = np.linalg.norm(index / radii, axis=-1) <= 1
    signal = ball * rng.normal(1000, 150, shape)
    array = np.hypot(signal + noise * rng.standard_normal(shape), noise * rng.standard_normal(shape))
    ends = [np.flatnonzero(ball.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return array.astype(np.float32), [(int(e[0]), int(e[-1]) + 1) for e in ends]


def test_even_borders_of_any_value_are_taken_away_and_nothing_else():
    scan = _scan()
    assert even_box(scan) == (slice(0, 20), slice(0, 24), slice(0, 16))
    sides = np.pad(np.pad(scan, ((30, 0), (0, 0), (0, 0)), constant_values=-1), ((0, 0), (0, 25), (9, 0)))
    assert even_box(sides) == (slice(30, 50), slice(0, 24), slice(9, 25))
    assert content_box(sides, (1, 1, 1)) == even_box(sides)


@pytest.mark.parametrize("array", [np.full((5, 6, 7), 3.0), np.indices((5, 6, 7))[1], np.array([[[1.0]], [[2.0]]])])
def test_a_scan_of_nothing_but_even_planes_is_left_whole(array):
    whole = tuple(slice(0, n) for n in array.shape)
    assert even_box(array) == content_box(array, (1, 1, 1)) == whole


@settings(max_examples=20)
@given(
    width=st.tuples(*[st.tuples(st.integers(0, 40), st.integers(0, 40))] * 3),
    value=st.sampled_from([0.0, -1024.0, 37.0]),
)
def test_the_box_does_not_depend_on_the_width_of_the_padding(width, value):
    padded = np.pad(_scan(), width, constant_values=value)
    starts = [low for low, _ in width]
    assert even_box(padded) == tuple(slice(s, s + n) for s, n in zip(starts, (20, 24, 16), strict=True))


def test_odd_voxels_in_a_border_are_no_content():
    padded = np.pad(_scan(), 20)
    rng = np.random.default_rng(2)
    odd = (rng.random(padded.shape) < 0.005) & (padded == 0)
    assert even_box(np.where(odd, 500, padded)) == (slice(20, 40), slice(20, 44), slice(20, 36))


@pytest.mark.parametrize("share", [0.01, 0.02, 0.03])
def test_a_field_of_noise_is_taken_away_up_to_the_margin(share):
    array, ends = _head(noise=1000 * share)
    for cut, (start, stop), size in zip(content_box(array, (2, 2, 2), margin=10.0), ends, array.shape, strict=True):
        # To a block of 4 mm and a flat cap of the ball.
        assert max(0, start - 7) <= cut.start <= start
        assert stop <= cut.stop <= min(size, stop + 7)


def test_noise_around_a_scan_with_cleared_air_is_taken_away_with_that_air():
    inner, ends = _head(shape=(80, 90, 76))
    padded = np.pad(inner, 40, constant_values=np.nan)
    noise = np.random.default_rng(3).rayleigh(20, padded.shape)
    padded = np.where(np.isnan(padded), noise, padded)
    for cut, (start, stop) in zip(content_box(padded, (2, 2, 2), margin=0.0), ends, strict=True):
        assert abs(cut.start - 40 - start) <= 6
        assert abs(cut.stop - 40 - stop) <= 6


@pytest.mark.parametrize("values", [(300, 1000), (700, 1000), (-120, 60), (-1, 1), (-1000, 40)])
@pytest.mark.parametrize("axis", range(3))
def test_a_crop_within_the_body_keeps_its_planes_though_tissue_is_noisy_and_even(values, axis):
    halves = np.where(np.indices((40, 44, 36))[axis] < 20, *values)
    noise = np.random.default_rng(0).normal(0, 0.04 * np.ptp(values), halves.shape)
    array = (halves + noise).astype(np.float32)
    assert content_box(array, (1, 1, 1)) == (slice(0, 40), slice(0, 44), slice(0, 36))
