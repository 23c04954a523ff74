"""Averages over draws from a posterior."""

from __future__ import annotations

import math

import pytest
import torch

from models.heads import Heads
from pipeline.prediction import slabs
from pipeline.prediction.posterior_average import PosteriorAverage, entropy
from pipeline.prediction.temperature import as_stored, from_log_probability, tempered


def draws(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, 2, 4, 5, generator=generator, dtype=torch.float64).softmax(dim=1)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_running_moments_are_those_of_the_batch(count: int) -> None:
    batch = draws(count)
    average = PosteriorAverage()
    for draw in batch:
        average.add(draw)
    mean = batch.mean(0)
    assert average.count == count
    torch.testing.assert_close(average.probability, mean)
    total = -(mean * mean.log()).sum(0)
    torch.testing.assert_close(average.predictive_entropy, total)
    expected = total + (batch * batch.log()).sum(1).mean(0)
    torch.testing.assert_close(average.mutual_information, expected.clamp_min(0), rtol=1e-9, atol=1e-12)
    if count > 1:
        deviation = (1 - batch[:, 0]).std(0)
        torch.testing.assert_close(average.standard_deviation, deviation, rtol=1e-9, atol=1e-12)


def test_single_precision_stays_near_double_over_many_draws() -> None:
    batch = draws(200)
    average = PosteriorAverage()
    for draw in batch:
        average.add(draw.float())
    assert average.probability.dtype == torch.float32
    torch.testing.assert_close(average.probability.double(), batch.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(average.standard_deviation.double(), (1 - batch[:, 0]).std(0), rtol=1e-4, atol=1e-6)


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = PosteriorAverage(), PosteriorAverage()
    for draw in draws(3):
        whole.add(draw)
    monkeypatch.setattr(slabs, "_VOXELS", 20)
    for draw in draws(3):
        parts.add(draw)
    for name in ("probability", "predictive_entropy", "mutual_information", "standard_deviation"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name


def test_a_draw_that_is_given_away_becomes_the_mean() -> None:
    first = draws(1)[0]
    average = PosteriorAverage()
    average.add(first, keep=False)
    assert average.probability.data_ptr() == first.data_ptr()


def test_reading_the_maps_does_not_change_them() -> None:
    average = PosteriorAverage()
    for draw in draws(3):
        average.add(draw)
    for name in ("predictive_entropy", "mutual_information", "standard_deviation"):
        assert torch.equal(getattr(average, name), getattr(average, name)), name


def test_draws_that_agree_have_no_mutual_information() -> None:
    average = PosteriorAverage()
    for _ in range(3):
        average.add(draws(1)[0])
    assert float(average.mutual_information.abs().max()) < 1e-12
    torch.testing.assert_close(average.predictive_entropy, entropy(draws(1)[0]))


def test_certain_draws_that_disagree_have_nothing_else() -> None:
    average = PosteriorAverage()
    for certain in (0, 1):
        probability = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
        probability[certain] = 1
        average.add(probability)
    assert float(average.predictive_entropy) == pytest.approx(math.log(2))
    assert float(average.mutual_information) == pytest.approx(math.log(2))


def test_entropy_is_log_of_the_classes_at_most_and_zero_when_certain() -> None:
    assert float(entropy(torch.full((4, 1, 1, 1), 0.25))) == pytest.approx(math.log(4))
    assert float(entropy(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))) == 0.0


@pytest.mark.parametrize("heads", Heads)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_read_as_a_stored_prediction_is(heads: Heads, temperature: float) -> None:
    average = PosteriorAverage(heads)
    for draw in draws(3).float():
        average.add(draw)
    mean, information = average.probability.clone(), average.mutual_information
    average.read(temperature)
    expected = from_log_probability(as_stored(mean), temperature, heads)
    assert torch.equal(average.probability, expected)
    # What single precision would have given is another mask wherever a threshold lies between the two.
    assert not torch.equal(average.probability, tempered(mean, temperature, heads))
    assert torch.equal(average.mutual_information, information)
    torch.testing.assert_close(average.predictive_entropy, entropy(expected, heads))


def test_what_is_added_is_not_changed() -> None:
    first = draws(1)[0]
    copy = first.clone()
    average = PosteriorAverage()
    average.add(first)
    average.add(draws(2)[0])
    assert torch.equal(first, copy)


def test_without_a_draw_there_is_no_average() -> None:
    for name, reason in (
        ("probability", "no draw"),
        ("mutual_information", "no draw"),
        ("standard_deviation", "two draws"),
    ):
        with pytest.raises(ValueError, match=reason):
            getattr(PosteriorAverage(), name)
