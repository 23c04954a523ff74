"""The gradients of data term and KL, told apart in one backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.arms.gradient_sizes import GRADIENT_DATA, GRADIENT_KL, log_gradient_sizes

START = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
ONES = torch.ones(2)


def root_mean_square(gradient: torch.Tensor) -> float:
    return float(gradient.square().mean().sqrt())


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_each_term_has_its_own_gradient_whatever_scales_the_loss(scale: float) -> None:
    means, terms = nn.Parameter(START.clone()), {"loss": 0.0}
    data, kl = means.sum() * 3, means.square().sum()
    log_gradient_sizes(means, kl, torch.tensor([1.0, 4.0]), terms, scale)
    ((data + kl) * scale).backward()
    of_kl = 2 * START
    assert terms[GRADIENT_DATA] == pytest.approx(3)
    assert terms[GRADIENT_KL] == pytest.approx(root_mean_square(of_kl / torch.tensor([[1.0], [2.0]])))
    assert torch.equal(means.grad, scale * (3 + of_kl))


def test_only_the_next_backward_pass_is_logged() -> None:
    means, terms = nn.Parameter(START.clone()), {}
    log_gradient_sizes(means, means.sum(), ONES, terms)
    (means.sum() * 2).backward()
    first = terms[GRADIENT_DATA]
    means.grad = None
    (means.sum() * 7).backward()
    assert terms[GRADIENT_DATA] == first == pytest.approx(1)


@pytest.mark.parametrize("case", ["no parameter", "no gradient", "other weights"])
def test_where_the_kl_has_no_gradient_on_the_means_nothing_is_logged(case: str) -> None:
    means, other, terms = nn.Parameter(START.clone()), nn.Parameter(START.clone()), {}
    kl = other.sum() if case == "other weights" else means.sum()
    given = means * 1 if case == "no parameter" else means
    log_gradient_sizes(given, kl.detach() if case == "no gradient" else kl, ONES, terms)
    (means.sum() + kl).backward()
    assert terms == {}
