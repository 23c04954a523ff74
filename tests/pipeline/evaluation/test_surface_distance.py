from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from pipeline.metrics.surface_distance import (
    average_surface_distance,
    hd95,
    surface_dice,
    surface_distances,
)

SPACING = (0.5, 1.0, 3.0)
masks = arrays(bool, (4, 3, 4))


def brute_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels with a face neighbour outside, one by one."""
    found = []
    for voxel in map(tuple, np.argwhere(mask)):
        for axis, step in itertools.product(range(3), (-1, 1)):
            other = list(voxel)
            other[axis] += step
            inside = all(0 <= i < n for i, n in zip(other, mask.shape, strict=True))
            if not inside or not mask[tuple(other)]:
                found.append(voxel)
                break
    return found


def brute_directed(a: np.ndarray, b: np.ndarray) -> list[float]:
    here, there = (np.array(brute_surface(m)) * SPACING for m in (a, b))
    return [min(math.dist(p, q) for q in there) for p in here]


@settings(max_examples=60)
@given(masks, masks, st.floats(0.1, 4.0))
def test_against_brute_force_on_anisotropic_grids(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    if not a.any() or not b.any():
        return
    forth, back = brute_directed(a, b), brute_directed(b, a)
    both = np.array(forth + back)
    got = surface_distances(a, b, SPACING)
    assert hd95(got) == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
    assert average_surface_distance(got) == pytest.approx(both.mean())
    if np.abs(both - tolerance).min() > 1e-9:
        assert surface_dice(got, tolerance) == pytest.approx((both <= tolerance).mean())


def test_shifted_cube_in_closed_form() -> None:
    a, b = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    a[2:6, 2:6, 2:6], b[2:6, 2:6, 4:8] = True, True
    assert hd95(surface_distances(a, b, SPACING)) == pytest.approx(6.0)  # two voxels of 3 mm
    same = surface_distances(a, a, SPACING)
    assert (hd95(same), average_surface_distance(same), surface_dice(same, 0.0)) == (0.0, 0.0, 1.0)


def test_agrees_with_monai_on_two_blobs() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij")) * np.array(SPACING)[:, None, None, None]
    a = np.linalg.norm(grid - np.array([4, 8, 24.0])[:, None, None, None], axis=0) < 6
    b = np.linalg.norm(grid - np.array([4.5, 7, 21.0])[:, None, None, None], axis=0) < 5
    first, second = (torch.from_numpy(m)[None, None].float() for m in (a, b))
    got = surface_distances(a, b, SPACING)
    common = {"include_background": True, "spacing": SPACING}
    assert hd95(got) == pytest.approx(
        compute_hausdorff_distance(first, second, percentile=95, **common).item(), rel=1e-5
    )
    mean = compute_average_surface_distance(first, second, symmetric=True, **common).item()
    assert average_surface_distance(got) == pytest.approx(mean, rel=1e-5)
    share = compute_surface_dice(first, second, class_thresholds=[1.5], **common).item()
    assert surface_dice(got, 1.5) == pytest.approx(share, rel=1e-5)


def test_a_missed_structure_is_as_far_as_the_image_is_wide() -> None:
    none, some = np.zeros((5, 3, 3), bool), np.ones((5, 3, 3), bool)
    for got in (surface_distances(none, some, (1.0, 2.0, 2.0)), surface_distances(some, none, (1.0, 2.0, 2.0))):
        assert hd95(got) == pytest.approx(math.sqrt(16 + 16 + 16))
        assert average_surface_distance(got) == hd95(got)
        assert surface_dice(got, tolerance=1e9) == 0.0


def test_two_empty_masks_agree() -> None:
    none = np.zeros((3, 3, 3), bool)
    got = surface_distances(none, none, SPACING)
    assert (hd95(got), average_surface_distance(got), surface_dice(got, 1.0)) == (0.0, 0.0, 1.0)


def test_refuses_a_spacing_that_does_not_fit() -> None:
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="spacing"):
        surface_distances(mask, mask, (1.0, 1.0))
    with pytest.raises(ValueError, match="spacing"):
        surface_distances(mask, mask, (1.0, 0.0, 1.0))
