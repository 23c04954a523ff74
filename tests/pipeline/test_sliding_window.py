"""Whole-volume prediction."""

from __future__ import annotations

import pytest
import torch

from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.prediction.sliding_window import SlidingWindowOptions, predict_logits
from pipeline.training.validation import mean_dice

NETWORK = ResidualUNetOptions(channels=(4, 8), encoder_blocks=(0, 1))
PATCH = (16, 16, 16)


def image(*size: int) -> torch.Tensor:
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


def test_on_a_volume_of_patch_size_it_is_the_plain_network() -> None:
    network = build_network(NETWORK, 2, 3, 0).eval()
    scan = image(*PATCH)
    with torch.no_grad():
        expected = network(scan[None])[0]
    torch.testing.assert_close(predict_logits(network, scan, PATCH, SlidingWindowOptions()), expected)


@pytest.mark.parametrize("size", [(16, 20, 33), (10, 16, 18), (7, 8, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_map_of_single_voxels_is_blended_to_itself(size: tuple[int, int, int], overlap: float) -> None:
    scan = image(*size)
    seen = []

    def forward(windows: torch.Tensor) -> torch.Tensor:
        seen.append(windows.shape)
        return torch.cat([windows.sum(1, keepdim=True), 2 * windows[:, :1]], dim=1)

    logits = predict_logits(forward, scan, PATCH, SlidingWindowOptions(overlap=overlap, batch=3))
    assert logits.shape == (2, *size)
    torch.testing.assert_close(logits, torch.stack([scan.sum(0), 2 * scan[0]]), rtol=1e-4, atol=1e-4)
    assert all(tuple(shape[2:]) == PATCH and shape[0] <= 3 for shape in seen)


def test_what_lies_outside_repeats_the_edge() -> None:
    scan = torch.full((1, 8, 8, 8), 5.0)
    lows = []

    def forward(windows: torch.Tensor) -> torch.Tensor:
        lows.append(float(windows.min()))
        return windows

    predict_logits(forward, scan, PATCH, SlidingWindowOptions())
    assert lows == [5.0]


def test_no_gradients_are_kept() -> None:
    network = build_network(NETWORK, 2, 2, 0).eval()
    assert not predict_logits(network, image(*PATCH), PATCH, SlidingWindowOptions()).requires_grad


def test_mean_dice_is_one_for_the_reference_and_zero_for_background(make_case) -> None:
    label = torch.zeros(16, 16, 16)
    label[4:9, 4:9, 4:9] = 1
    case = make_case("a", image=label[None].numpy(), label=label.numpy())

    class Threshold(torch.nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.full_like(images, 0.5), images * self.sign], dim=1)

    for sign, expected in ((1.0, 1.0), (-1.0, 0.0)):
        assert mean_dice(Threshold(sign), [case], PATCH, SlidingWindowOptions(), "cpu") == expected
