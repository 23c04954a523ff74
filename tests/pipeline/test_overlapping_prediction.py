"""Masks, uncertainty and readings of overlapping structures: one rule for each, in whatever room it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.volume import Volume
from models.heads import Heads
from pipeline.arms.prediction import predict_cases
from pipeline.prediction.dice_thresholds import MaskRule, dice_thresholds
from pipeline.prediction.expected_dice import DrawMasks
from pipeline.prediction.most_probable import predicted_classes, single_codes
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.posterior_average import PosteriorAverage, entropy
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.scan_prediction import draw_probability, predict_scan
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import CasePrediction, StoredPrediction, load_prediction
from pipeline.prediction.temperature import from_log_probability, log_probability, tempered

OVERLAPPING = Heads.OVERLAPPING
SHAPE = (4, 5, 6)


def probabilities(structures: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand((structures, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("thresholds", [None, (0.3, 0.5, 0.45)])
def test_each_structure_has_its_own_mask(thresholds: tuple[float, ...] | None) -> None:
    p = probabilities()
    codes = predicted_classes(p, thresholds, OVERLAPPING)
    native = native_mask((Volume(own.numpy(), np.eye(4)) for own in p), [1, 2, 4], thresholds, heads=OVERLAPPING)
    np.testing.assert_array_equal(native.array, codes.numpy())
    for number, (own, threshold) in enumerate(zip(p, thresholds or (0.5,) * 3, strict=True), start=1):
        assert torch.equal(OVERLAPPING.belongs(codes, number), own > threshold)
    assert native.array.dtype == np.uint8


def test_a_mask_of_many_structures_holds_the_sum_of_all_values() -> None:
    everywhere = Volume(np.ones(SHAPE, np.float32), np.eye(4))
    values = [2**k for k in range(15)]
    mask = native_mask([everywhere] * 15, values, heads=OVERLAPPING)
    assert (mask.array == sum(values)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_temperature_divides_the_logits_of_each_structure(temperature: float) -> None:
    p = probabilities(dtype=torch.float64)
    expected = torch.sigmoid(torch.logit(p) / temperature)
    torch.testing.assert_close(tempered(p, temperature, OVERLAPPING), expected)
    # As it is stored: in 16 bits, and certain voxels stay finite.
    p = torch.cat([p.float(), torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE), torch.full((1, *SHAPE), 1 - 1e-5)])
    read = from_log_probability(log_probability(p).half(), temperature, OVERLAPPING)
    assert torch.isfinite(read).all()
    torch.testing.assert_close(read, torch.sigmoid(torch.logit(p, 1e-37) / temperature), rtol=3e-2, atol=2e-3)


def test_moments_are_those_of_each_structure() -> None:
    first, second = probabilities(), probabilities().flip(0)
    average = PosteriorAverage(OVERLAPPING)
    for p in (first, second):
        average.add(p)
    mean = (first + second) / 2
    torch.testing.assert_close(average.probability, mean)
    by_hand = -(mean * mean.log() + (1 - mean) * (1 - mean).log()).sum(dim=0)
    torch.testing.assert_close(average.predictive_entropy, by_hand)
    information = by_hand - (entropy(first, OVERLAPPING) + entropy(second, OVERLAPPING)) / 2
    torch.testing.assert_close(average.mutual_information, information, atol=1e-6, rtol=1e-4)
    deviation = torch.stack([first, second]).var(dim=0).sum(dim=0).sqrt()
    torch.testing.assert_close(average.standard_deviation, deviation)
    average.read(2.0)
    # In 16 bits, as it would be stored.
    torch.testing.assert_close(average.probability, torch.sigmoid(torch.logit(mean) / 2), rtol=2e-3, atol=2e-4)


def test_sizes_and_agreement_of_draws_are_those_of_each_structure() -> None:
    masks, draws = DrawMasks(OVERLAPPING), [probabilities(), probabilities().flip(1)]
    for p in draws:
        masks.add(p)
    for number in (1, 2, 3):
        inside = [p[number - 1] > 0.5 for p in draws]
        assert masks.voxels(number) == [int(own.sum()) for own in inside]
        both = 2 * int((inside[0] & inside[1]).sum()) / sum(map(int, (own.sum() for own in inside)))
        assert masks.agreement(number) == pytest.approx(both)


def test_thresholds_of_overlapping_structures_are_those_of_each_alone() -> None:
    p = probabilities(2).numpy() * np.array([0.9, 0.6], np.float32)[:, None, None, None]
    together = dice_thresholds(p, (1, 1, 1), OVERLAPPING)
    # One structure beside the background is decided by one half, too.
    alone = tuple(dice_thresholds(own[None], (1, 1, 1))[0] for own in p)
    assert together == pytest.approx(alone)
    assert max(together) <= 0.5


def test_a_scan_is_predicted_with_sigmoids() -> None:
    image = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))

    def forward(windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([windows, 2 * windows + 1], dim=1)

    window = SlidingWindowOptions()
    p = draw_probability(forward, image, SHAPE, window, heads=OVERLAPPING)
    torch.testing.assert_close(p, torch.cat([image, 2 * image + 1]).sigmoid())
    average, masks = predict_scan([forward, forward], 2, image, SHAPE, window, heads=OVERLAPPING)
    torch.testing.assert_close(average.probability, p)
    assert masks.voxels(2) == [int((p[1] > 0.5).sum())] * 2


def test_a_stored_prediction_knows_its_heads(make_case, tmp_path: Path) -> None:
    case = make_case(classes={"whole": (1, 2), "core": (2,)})
    average = PosteriorAverage(OVERLAPPING)
    p = torch.rand((2, *case.shape), generator=torch.Generator().manual_seed(0))
    average.add(p)
    StoredPrediction.of(CasePrediction(average, torch.zeros(1, 2)), case, "0").write(tmp_path / "c.safetensors")
    read = load_prediction(tmp_path / "c.safetensors").read(ReadingOptions(mask=MaskRule.MOST_PROBABLE))
    assert read.heads is OVERLAPPING
    assert read.foreground.shape == p.shape
    sure = (p - 0.5).abs() > 0.01
    for number in (1, 2):
        held = torch.from_numpy(OVERLAPPING.belongs(read.mask, number))
        assert torch.equal(held[sure[number - 1]], (p[number - 1] > 0.5)[sure[number - 1]])


def test_draws_of_a_study_are_counted_for_each_structure(make_case) -> None:
    case = make_case(classes={"whole": (1,), "core": (1,)})

    class Draws:
        """One pass of a network that finds the whole bright cube twice."""

        class member:  # noqa: N801 — as an instance would have it
            @staticmethod
            def with_weights(_draw: object):
                return lambda windows: torch.cat([8 * (windows - 1), 8 * (windows - 1)], dim=1)

        def __len__(self) -> int:
            return 1

        def __iter__(self):
            yield None

    [(_, found)] = predict_cases([Draws()], [case], (16, 16, 16), SlidingWindowOptions(), "cpu")  # type: ignore[list-item]
    assert found.average.heads is OVERLAPPING
    assert torch.equal(found.voxels[0, 0], found.voxels[0, 1])
    assert int(found.voxels[0, 0]) == int((single_codes(found.average.probability, OVERLAPPING) == 3).sum())
