"""The objective is the negative ELBO per voxel: what patches add around a scan is in neither of its terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.bayesian_network import BayesianNetwork
from models.filters import filter_layers
from models.objectives import FilterGroups, Likelihood
from models.posteriors.mean_field import MeanField, MeanFieldOptions
from models.weight_gaussian import WeightGaussian
from pipeline.arms.choices import ArmOptions
from pipeline.arms.prior_term import WeightPriors
from pipeline.arms.target_loss import TargetLoss
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.storage.cached_case import CachedCase
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.patches import Batch, PatchOptions, PatchSampler

OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
SCAN = (6, 5, 4)
STEPS = 300
ARM = ArmOptions(prior="l2", posterior=MeanFieldOptions(), posterior_temperature=1.0, train_samples=4)


@dataclass(frozen=True)
class InDouble:
    """The batches of a sampler in double precision."""

    sampler: PatchSampler

    @property
    def voxels(self) -> int:
        return self.sampler.voxels

    def batch(self, step: int) -> Batch:
        images, labels, names = self.sampler.batch(step)
        return images.double(), labels, names


@pytest.fixture
def cases(make_case: Callable[..., CachedCase]) -> list[CachedCase]:
    generator = np.random.default_rng(3)
    labels = [(generator.random(SCAN) < share).astype(np.int16) for share in (0.5, 0.9)]
    return [make_case(f"case {k}", image=generator.normal(0, 1, (1, *SCAN)), label=own) for k, own in enumerate(labels)]


@pytest.fixture
def model() -> BayesianNetwork:
    """One convolution with two filters, one for each class: its logits are linear in normal weights."""
    network = nn.Conv3d(1, 2, 3, padding=1, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, 27, generator=generator, dtype=torch.float64) / 5
    log_variances = torch.rand(2, 27, generator=generator, dtype=torch.float64) - 4
    return BayesianNetwork(network, MeanField(means, log_variances), filter_layers(network))


def loss_of(cases: Sequence[CachedCase], model: BayesianNetwork, size: tuple[int, int, int]) -> TargetLoss:
    patches = PatchOptions(size=size, batch=1, foreground_share=0)
    sampler = InDouble(PatchSampler([[case] for case in cases], patches, Augmentation(OFF), 0))
    prior = WeightGaussian(torch.full((2, 27), 0.1).double(), torch.full((2, 1), 0.3).double())
    priors = WeightPriors({}, FilterGroups.of({}, model.layers), filters=[prior])
    options = TargetTrainingOptions(arms=["random"], steps=STEPS, likelihood=Likelihood.CROSS_ENTROPY)
    return TargetLoss(ARM, options, model, priors, sampler, 0, "cpu")


def negative_elbo(cases: Sequence[CachedCase], model: BayesianNetwork) -> float:
    """KL(q ‖ p) − Σ E_q log p(y | x, w) over the voxels of the scans, by quadrature over each voxel's logit."""
    posterior = model.posterior
    assert isinstance(posterior, MeanField)
    means, variances = posterior.means.detach(), posterior.log_variances.detach().exp()
    q = torch.distributions.Normal(means, variances.sqrt())
    total = float(torch.distributions.kl_divergence(q, torch.distributions.Normal(0.1, 0.3)).sum())
    points, weights = (torch.from_numpy(own) for own in np.polynomial.hermite_e.hermegauss(60))
    for case in cases:
        # The logit of class 1 against class 0 is normal; beyond the scan, the image repeats its edge.
        image = functional.pad(case.image().double()[None], [1] * 6, mode="replicate")
        mean = _filtered(image, means[1] - means[0])
        deviation = _filtered(image.square(), variances.sum(0)).sqrt()
        sign = 1.0 - 2.0 * case.label().flatten()
        losses = functional.softplus(sign * (mean + deviation * points[:, None]))
        total += float((weights @ losses).sum() / weights.sum())
    return total


def _filtered(image: Tensor, weights: Tensor) -> Tensor:
    return functional.conv3d(image, weights.reshape(1, 1, 3, 3, 3)).flatten()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 7, 6), (12, 12, 12), (8, 9, 16)])
def test_the_objective_is_the_negative_elbo_per_voxel_however_large_the_patch(cases, model, size) -> None:
    loss = loss_of(cases, model, size)
    assert loss.sampler.voxels == 2 * int(np.prod(SCAN))
    with torch.no_grad():
        found = torch.stack([loss(step).loss for step in range(STEPS)]) * loss.sampler.voxels
    error = float(found.std()) / STEPS**0.5
    expected = negative_elbo(cases, model)
    assert error < 0.01 * expected
    assert float(found.mean()) == pytest.approx(expected, abs=4 * error)


def test_the_elbo_of_a_component_counts_the_same_voxels(cases, model) -> None:
    values = [loss_of(cases, model, size).elbo() for size in ((8, 7, 6), (12, 12, 12))]
    # The same draws and cases; only the room around the scans differs.
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_room_around_a_scan_changes_no_gradient(cases, model) -> None:
    gradients = []
    for size in ((8, 7, 6), (12, 12, 12)):
        model.zero_grad()
        loss_of(cases, model, size)(0).loss.backward()
        gradients.append(model.posterior.means.grad.clone())
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9, atol=0)
