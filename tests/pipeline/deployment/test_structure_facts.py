"""Intervals and expected Dice of structures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from data.volume import Volume
from models.heads import Heads
from pipeline.deployment.arm_model import DicePairs
from pipeline.deployment.structure_facts import structure_facts
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.evaluation.volume_interval import volume_interval
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.expected_dice import DrawMasks
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.posterior_average import PosteriorAverage
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import ReadPrediction, read_average
from pipeline.storage.cached_case import CachedCase

DRAWS = 19
"""The fewest that give an interval."""


def read(average: PosteriorAverage, thresholds: tuple[float, ...] | None = None, correlation: float | None = None):
    return ReadPrediction(average.probability, thresholds, correlation)


def test_the_interval_of_the_draws_is_that_whose_coverage_the_evaluation_measures() -> None:
    """One rule: the two differed at 25, 30 and 50 draws."""
    generator = np.random.default_rng(0)
    mask = Volume(np.zeros((4, 5, 5), np.uint8), np.eye(4))
    for count in (18, 19, 25, 30, 39, 50):
        average, draws = PosteriorAverage(), DrawMasks()
        sizes = generator.permutation(count) + 20
        for size in sizes:
            probability = torch.zeros((2, 100))
            probability[1, :size], probability[0, size:] = 1.0, 1.0
            average.add(probability.reshape(2, 4, 5, 5))
            draws.add(probability.reshape(2, 4, 5, 5))
        facts = structure_facts(mask, {"core": 1}, read(average), draws, (1.0, 1.0, 1.0), 0.5, {})
        expected = volume_interval(sizes * 0.5)
        assert (expected is None) == (count < DRAWS)
        assert facts["core"]["volume_90_percent_ml"] == (expected and [expected.low, expected.high])


def test_numbers_of_a_structure() -> None:
    probability = torch.full((3, 2, 2, 2), 0.1)
    probability[0] = 0.8
    probability[:, 0] = torch.tensor([0.2, 0.7, 0.1])[:, None, None]
    average, draws = PosteriorAverage(), DrawMasks()
    for _ in range(DRAWS):
        average.add(probability)
        draws.add(probability)
    mask = Volume(np.zeros((2, 2, 2), np.uint8), np.diag([10.0, 10.0, 10.0, 1.0]))
    mask.array[0] = 4
    line = DiceFit(cases=9, slope=0.5, intercept=0.1, residual=0.05)
    facts = structure_facts(
        mask, {"core": 4, "rim": 2}, read(average), draws, (5.0, 5.0, 5.0), 2.0, {"core": line, "rim": line}
    )
    core, rim = facts["core"], facts["rim"]
    assert (core["label"], core["voxels"], core["volume_ml"]) == (4, 4, pytest.approx(4.0))
    assert core["volume_90_percent_ml"] == [8.0, 8.0]
    expected = 2 * 4 * 0.7 / (4 + 4 * 0.7 + 4 * 0.1)
    assert core["expected_dice"] == pytest.approx(expected, rel=1e-5)
    assert core["dice_line"]["dice"] == pytest.approx(0.1 + 0.5 * expected, rel=1e-5)
    assert core["dice_between_draws"] == 1.0
    assert rim["voxels"] == 0
    # A line of an older model, without means, gives no estimate.
    assert (core["dice"]["dice"], core["dice"]["error"]) == (core["expected_dice"], None)
    assert rim["dice"] is rim["expected_dice"] is rim["dice_between_draws"] is rim["dice_line"] is None


def test_a_mask_by_thresholds_and_the_interval_of_correlated_voxels() -> None:
    probability = torch.full((2, 2, 2, 2), 0.3)
    probability[1, 0] = 0.6
    probability[0] = 1 - probability[1]
    average, draws = PosteriorAverage(), DrawMasks()
    average.add(probability)
    mask = Volume(np.ones((2, 2, 2), np.uint8), np.diag([5.0, 5.0, 5.0, 1.0]))
    own = read(average, (0.25,), 0.0)
    facts = structure_facts(mask, {"core": 1}, own, draws, (5.0, 5.0, 5.0), 0.125, {})["core"]
    assert facts["expected_dice"] == pytest.approx(2 * 3.6 / (8 + 3.6), rel=1e-5)
    assert facts["volume_90_percent_ml"] == pytest.approx([3.6 * 0.125] * 2)
    average = PosteriorAverage()
    average.add(torch.tensor([0.9, 0.1])[:, None, None, None].expand(2, 2, 2, 2).clone())
    own = read(average, (0.5,), 0.1)
    facts = structure_facts(mask, {"core": 1}, own, draws, (5.0, 5.0, 5.0), 0.125, {})["core"]
    assert facts["volume_90_percent_ml"] is None


@pytest.mark.parametrize("thresholds", [None, (0.4,)])
def test_interval_and_expected_dice_are_of_what_is_kept(thresholds: tuple[float, ...] | None) -> None:
    probability = torch.zeros((2, 20, 6, 6))
    probability[1, 1:5, 1:5, 1:5] = 0.9
    alone = ReadPrediction(torch.cat([1 - probability[1:], probability[1:]]), thresholds, 0.2)
    probability[1, 15:18, 1:5, 1:5] = 0.8
    crumb = torch.cat([1 - probability[1:], probability[1:]])
    mask = Volume(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    facts = [
        structure_facts(mask, {"core": 1}, read, DrawMasks(), (1.0, 1.0, 1.0), 1.0, {})["core"]
        for read in (
            alone,
            ReadPrediction(crumb, thresholds, 0.2, (ComponentRule(keep=Kept.LARGEST),)),
            ReadPrediction(crumb, thresholds, 0.2),
        )
    ]
    for name in ("volume_90_percent_ml", "expected_dice"):
        assert facts[1][name] == facts[0][name] != facts[2][name]


def test_pairs_of_expected_and_real_dice_are_of_the_mask_that_the_arm_makes() -> None:
    label = torch.zeros((6, 6, 6), dtype=torch.int16)
    label[1:5] = 1
    case = SimpleNamespace(
        label=lambda: label, spacing=np.ones(3), classes=("core",), patient="anna", heads=Heads.EXCLUSIVE
    )
    foreground = torch.full((6, 6, 6), 0.01)
    foreground[1:5] = 0.45
    foreground[2:4] = 0.9
    probability = torch.stack([1 - foreground, foreground])
    found = {}
    for rule in MaskRule:
        pairs = DicePairs()
        pairs.add(
            read_average(probability, ReadingOptions(mask=rule), ("core",), (1.0, 1.0, 1.0)), cast(CachedCase, case)
        )
        found[rule] = pairs.real["core"][0]
        assert pairs.patients["core"] == ["anna"]
    assert found == {MaskRule.MOST_PROBABLE: pytest.approx(2 / 3), MaskRule.EXPECTED_DICE: 1.0}
