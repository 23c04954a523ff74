"""Losses against soft labels: closed forms in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as functional

from models.deep_supervision import DeepSupervisionLoss, level_weights
from models.heads import Heads
from models.objectives import Likelihood, SegmentationLoss
from models.soft_targets import SoftTargetLoss, shrink_targets, uncertainty_weight

SHAPE = (4, 5, 6)


def drawn(heads: Heads, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[2, 3, …]` and codes of two structures."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, heads.outputs(2), *SHAPE, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 3 if heads is Heads.EXCLUSIVE else 4, (2, *SHAPE), generator=generator)


@pytest.mark.parametrize("heads", list(Heads))
@pytest.mark.parametrize("likelihood", list(Likelihood))
def test_certain_targets_of_equal_weight_give_the_loss_of_labels(heads: Heads, likelihood: Likelihood) -> None:
    logits, codes = drawn(heads)
    truth = heads.truth(codes, logits.shape[1]).to(logits)
    if heads is Heads.EXCLUSIVE:
        truth = functional.one_hot(codes, 3).movedim(-1, 1).to(logits)
    targets = torch.cat([truth, torch.ones_like(truth[:, :1])], dim=1)
    expected = SegmentationLoss(likelihood, heads)(logits, codes)
    assert float(SoftTargetLoss(likelihood, heads)(logits, targets)) == pytest.approx(float(expected), rel=1e-9)


def test_the_cross_entropy_is_weighted_and_divided_by_the_voxels_that_have_a_weight() -> None:
    logits, _ = drawn(Heads.EXCLUSIVE)
    generator = torch.Generator().manual_seed(1)
    probability = torch.randn(2, 3, *SHAPE, generator=generator, dtype=torch.float64).softmax(1)
    weight = torch.rand(2, 1, *SHAPE, generator=generator, dtype=torch.float64)
    weight[0, 0, :2] = 0
    found = SoftTargetLoss(Likelihood.CROSS_ENTROPY)(logits, torch.cat([probability, weight], dim=1))
    terms = -(probability * logits.softmax(1).log()).sum(1) * weight[:, 0]
    assert float(found) == pytest.approx(float(terms.sum()) / int((weight > 0).sum()), rel=1e-12)
    # Half the weights, half the loss: a patch of which little is certain teaches little.
    half = SoftTargetLoss(Likelihood.CROSS_ENTROPY)(logits, torch.cat([probability, weight / 2], dim=1))
    assert float(half) == pytest.approx(float(found) / 2, rel=1e-12)


@pytest.mark.parametrize("heads", list(Heads))
def test_what_has_no_weight_has_no_gradient(heads: Heads) -> None:
    logits, _ = drawn(heads)
    logits.requires_grad_(True)
    targets = torch.full((2, logits.shape[1] + 1, *SHAPE), 0.4, dtype=torch.float64)
    targets[:, -1, 2:] = 0
    SoftTargetLoss(heads=heads)(logits, targets).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 2:].any()
    assert logits.grad[:, :, :2].all()


@pytest.mark.parametrize("heads", list(Heads))
def test_the_loss_is_least_where_the_network_says_what_the_target_says(heads: Heads) -> None:
    logits, _ = drawn(heads)
    probability = heads.probability(logits, dim=1)
    targets = torch.cat([probability, torch.ones_like(probability[:, :1])], dim=1)
    loss = SoftTargetLoss(heads=heads)
    least = float(loss(logits, targets))
    for seed in range(5):
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert float(loss(logits + 0.3 * noise, targets)) > least
        # The product of probabilities, in place of the smaller one, would prefer certainty.
        assert float(loss(logits * 3, targets)) > least


def test_targets_shrink_by_means() -> None:
    targets = torch.arange(2 * 4 * 4 * 4, dtype=torch.float64).reshape(1, 2, 4, 4, 4)
    small = shrink_targets(targets, (2, 2, 2))
    assert float(small[0, 1, 0, 0, 0]) == float(targets[0, 1, :2, :2, :2].mean())
    assert shrink_targets(targets, (4, 4, 4)) is targets
    logits = [torch.randn(1, 2, n, n, n, generator=torch.Generator().manual_seed(n)).double() for n in (4, 2)]
    targets = torch.rand(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    loss = SoftTargetLoss()
    first, second = (float(loss(own, shrink_targets(targets, own.shape[2:]))) for own in logits)
    fine, coarse = level_weights(2)
    assert float(DeepSupervisionLoss(loss, shrink_targets)(logits, targets)) == pytest.approx(
        fine * first + coarse * second
    )


def test_the_weight_falls_with_the_uncertainty() -> None:
    uncertainty = torch.tensor([0.0, 0.1, 0.2, 0.6], dtype=torch.float64)
    found = uncertainty_weight(uncertainty, 0.2, 1.0)
    assert found.tolist() == pytest.approx([1.0, math.exp(-0.5), math.exp(-1), math.exp(-3)], rel=1e-12)
    assert uncertainty_weight(uncertainty, 0.2, 2.0).tolist() == pytest.approx((found**2).tolist(), rel=1e-12)
    # Where nothing is uncertain, or nothing is to depend on it, every voxel counts.
    assert uncertainty_weight(uncertainty, 0.0, 1.0).tolist() == [1.0] * 4
    assert uncertainty_weight(uncertainty, 0.2, 0.0).tolist() == [1.0] * 4
