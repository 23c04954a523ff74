"""Whole scans: one set of weights for each pass, mirrorings averaged within it."""

from __future__ import annotations

import pytest
import torch

from pipeline.prediction.scan_prediction import draw_probability, mirrorings, predict_scan
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits

WINDOW = SlidingWindowOptions(batch=2)
PATCH = (6, 6, 6)


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)


def image() -> torch.Tensor:
    return torch.randn(1, 9, 8, 7, generator=torch.Generator().manual_seed(0))


def test_every_combination_of_axes_once() -> None:
    assert mirrorings(()) == [()]
    assert mirrorings((2, 0, 2)) == [(), (0,), (2,), (0, 2)]


def test_a_draw_averages_probabilities_over_mirrorings() -> None:
    forward, scan = network(1), image()
    flips = mirrorings((0, 2))
    expected = torch.zeros(3, 9, 8, 7)
    for axes in flips:
        dims = [axis + 1 for axis in axes]
        expected += predict_logits(forward, scan.flip(dims), PATCH, WINDOW).softmax(0).flip(dims)
    torch.testing.assert_close(draw_probability(forward, scan, PATCH, WINDOW, flips), expected / 4)
    plain = predict_logits(forward, scan, PATCH, WINDOW).softmax(0)
    torch.testing.assert_close(draw_probability(forward, scan, PATCH, WINDOW), plain)
    with pytest.raises(ValueError, match="no mirroring"):
        draw_probability(forward, scan, PATCH, WINDOW, ())


def test_moments_and_masks_are_over_draws() -> None:
    forwards, scan = [network(seed) for seed in range(4)], image()
    told: list[float] = []
    average, masks = predict_scan(iter(forwards), 4, scan, PATCH, WINDOW, progress=told.append)
    batch = torch.stack([predict_logits(f, scan, PATCH, WINDOW).softmax(0) for f in forwards])
    torch.testing.assert_close(average.probability, batch.mean(0))
    torch.testing.assert_close(average.standard_deviation, (1 - batch[:, 0]).std(0), rtol=1e-4, atol=1e-6)
    assert masks.voxels(2) == (batch.argmax(1) == 2).sum((1, 2, 3)).tolist()
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_a_single_draw_keeps_no_masks() -> None:
    average, masks = predict_scan(iter([network(0)]), 1, image(), PATCH, WINDOW)
    assert (average.count, masks.count) == (1, 0)
