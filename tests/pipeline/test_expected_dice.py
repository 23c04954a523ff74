"""Expected Dice against its definitions, by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.overlap import count_voxels, dice
from pipeline.prediction import slabs
from pipeline.prediction.boundary_band import BAND
from pipeline.prediction.expected_dice import DrawMasks, expected_dice
from pipeline.prediction.most_probable import most_probable_class, predicted_classes


def draws(count: int, classes: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, classes, 3, 4, 2, generator=generator).softmax(1)


@settings(max_examples=25)
@given(count=st.integers(2, 6), classes=st.integers(2, 4), seed=st.integers(0, 99))
def test_votes_give_the_dice_over_all_pairs(count: int, classes: int, seed: int) -> None:
    batch = draws(count, classes, seed)
    found = DrawMasks()
    for draw in batch:
        found.add(draw)
    chosen = batch.argmax(1)
    for k in range(1, classes):
        masks = chosen == k
        assert found.voxels(k) == masks.sum((1, 2, 3)).tolist()
        pairs = list(itertools.combinations(masks, 2))
        shared = sum(2 * int((a & b).sum()) for a, b in pairs)
        sizes = sum(int(a.sum() + b.sum()) for a, b in pairs)
        agreement = found.agreement(k)
        assert math.isnan(agreement) if sizes == 0 else agreement == pytest.approx(shared / sizes)


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = DrawMasks(), DrawMasks()
    for draw in draws(3, 3, 1):
        whole.add(draw)
    monkeypatch.setattr(slabs, "_VOXELS", 8)
    assert len(list(slabs.slabs((3, 4, 2)))) == 3
    for draw in draws(3, 3, 1):
        parts.add(draw)
    assert [parts.voxels(k) for k in (1, 2)] == [whole.voxels(k) for k in (1, 2)]
    assert parts.agreement(2) == whole.agreement(2)


def test_one_draw_agrees_with_nothing() -> None:
    found = DrawMasks()
    found.add(draws(1, 2, 0)[0])
    assert math.isnan(found.agreement(1))


def test_expected_dice_in_closed_form_and_of_an_empty_mask() -> None:
    probability = np.array([[[0.9, 0.5, 0.4, 0.2]]])
    mask = np.array([[[True, True, False, False]]])
    assert expected_dice(probability, mask, (1.0, 1.0, 1.0)) == pytest.approx(2 * 1.4 / (2 + 2.0))
    # Farther away than the band nothing counts.
    assert expected_dice(probability, mask, (1.0, 1.0, BAND / 1.5)) == pytest.approx(2.8 / 3.8)
    assert math.isnan(expected_dice(probability, np.zeros_like(mask), (1.0, 1.0, 1.0)))


def test_expected_dice_is_the_mean_dice_of_honest_probabilities() -> None:
    generator = np.random.default_rng(0)
    probability = generator.beta(0.3, 0.5, (12, 12, 12))
    mask = probability > 0.5
    found = [dice(count_voxels(mask, generator.random(mask.shape) < probability)) for _ in range(200)]
    assert expected_dice(probability, mask, (0.01, 0.01, 0.01)) == pytest.approx(np.mean(found), abs=0.003)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_most_probable_class_is_that_of_argmax(classes: int) -> None:
    probability = torch.randint(0, 3, (classes, 6, 5, 4), generator=torch.Generator().manual_seed(classes)).float()
    assert torch.equal(most_probable_class(probability).long(), probability.argmax(0))


def test_the_background_wins_where_no_class_has_more() -> None:
    several = torch.tensor([[0.2, 0.5, 0.1], [0.3, 0.1, 0.1]]).reshape(2, 3, 1, 1)
    assert predicted_classes(several).flatten().tolist() == [0, 1, 0]
    one = torch.tensor([0.2, 0.5, 0.5000001, 0.9]).reshape(1, 4, 1, 1)
    assert predicted_classes(one).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_the_background_has_what_the_foreground_leaves(classes: int) -> None:
    draws = torch.rand(classes, 20, 20, 20, generator=torch.Generator().manual_seed(classes)) / classes
    # Eighths make equal probabilities, of the background too.
    for probability in (draws.half(), (8 * draws).round() / 8):
        whole = torch.cat([1 - probability.float().sum(0, keepdim=True), probability.float()])
        assert (whole.sort(dim=0).values.diff(dim=0)[-1] == 0).any() or probability.dtype == torch.float16
        assert torch.equal(predicted_classes(probability).long(), whole.argmax(0))
