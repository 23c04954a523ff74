"""Distances of features from a shrunk normal distribution, and how unusual a score of few scans is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from models.feature_gaussian import FeatureGaussian, leave_one_out_distances
from models.score_tail import ScoreTail


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_distance_is_that_of_the_shrunk_covariance() -> None:
    rows = normal(8, 30) @ normal(30, 30, seed=1)
    found = FeatureGaussian.fit(rows)
    others = normal(5, 30, seed=2)
    expected = np.sqrt(LedoitWolf().fit(rows.numpy()).mahalanobis(others.numpy()))
    np.testing.assert_allclose(found.distance(others).numpy(), expected, rtol=1e-4)
    assert found.distance(found.mean[None]) == 0
    again = FeatureGaussian.from_tensors("pooled", found.to_tensors("pooled"))
    torch.testing.assert_close(again.distance(others), found.distance(others))


def test_many_rows_give_the_distance_of_their_own_covariance() -> None:
    factor = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    found = FeatureGaussian.fit(normal(20_000, 2) @ factor)
    assert found.distance(torch.tensor([[3.0, 0.0], [0.0, 30.0]])).tolist() == pytest.approx([3, 3], rel=0.05)


def test_scans_of_one_patient_are_left_out_together() -> None:
    rows = normal(6, 4)
    # The second scan of a patient is the first one again: it would vouch for it.
    rows = torch.cat([rows, rows[:1]])
    patients = ["a", "b", "c", "d", "e", "f", "a"]
    found = leave_one_out_distances(rows, patients)
    alone = FeatureGaussian.fit(rows[1:6])
    assert found[0] == found[6] == pytest.approx(float(alone.distance(rows[:1])))
    others = torch.cat([rows[:1], rows[2:]])
    assert found[1] == pytest.approx(float(FeatureGaussian.fit(others).distance(rows[1:2])))


@pytest.mark.parametrize("count", [5, 8, 20])
def test_one_in_a_hundred_further_scans_lies_beyond_the_99th_percentile(count: int) -> None:
    rng = np.random.default_rng(count)
    beyond = []
    for _ in range(4000):
        scores = np.exp(rng.normal(2, 0.5, count + 1))
        tail = ScoreTail.of(scores[:-1].tolist(), [str(number) for number in range(count)])
        beyond.append(scores[-1] > tail.limit(0.99))
    assert np.mean(beyond) == pytest.approx(0.01, abs=4 * math.sqrt(0.01 / 4000))


def test_percentile_and_limit_are_inverse_and_need_no_scan_out_there() -> None:
    tail = ScoreTail.of([10.0, 12.0, 9.0, 11.0, 14.0], list("abcde"))
    assert tail.limit(0.99) > 14
    assert tail.percentile(tail.limit(0.99)) == pytest.approx(0.99)
    assert tail.percentile(math.exp(tail.mean)) == pytest.approx(0.5)
    assert (tail.low, tail.high) == (9, 14)
    assert tail.percentile(1e9) > 0.9999
    assert tail.percentile(0.0) < 1e-4


def test_more_scans_of_the_same_patients_are_no_more_evidence() -> None:
    scores, patients = [10.0, 12.0, 9.0, 11.0, 14.0], list("abcde")
    once, twice = ScoreTail.of(scores, patients), ScoreTail.of(scores * 2, patients * 2)
    assert twice.count == once.count == 5
    assert twice.limit(0.99) > 0.8 * once.limit(0.99)


def test_scores_that_can_be_negative_keep_their_own_scale() -> None:
    scores = [-2.0, -1.5, -2.5, -1.0, -3.0]
    tail = ScoreTail.of(scores, list("abcde"), logarithmic=False)
    assert tail.percentile(-2.0) == pytest.approx(0.5)
    assert tail.limit(0.99) > 0
    assert tail.percentile(tail.limit(0.99)) == pytest.approx(0.99)


def test_scores_that_are_alike_by_chance_do_not_make_all_others_strange() -> None:
    tail = ScoreTail.of([10.0] * 5, list("abcde"))
    assert tail.percentile(10.5) < 0.9
    assert tail.limit(0.99) > 11
