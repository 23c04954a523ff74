"""Losses against soft labels: a probability of each class and a weight at every voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.heads import Heads
from models.objectives import Likelihood

_SMOOTH = 1e-5


class SoftTargetLoss(nn.Module):
    """The data term of `SegmentationLoss` with weighted probabilities in place of labels.

    With labels of probability 0 or 1 and weights of 1 the two are equal. The Dice part is the semimetric of Wang et
    al., "Dice Semimetric Losses: Optimizing the Dice Score with Soft Labels", MICCAI 2023: Σ min(p, q) in place of
    Σ p q, which is the same for hard labels and, for soft ones, is least where q = p.

    Args:
        likelihood: the data term.
        heads: what the channels of the network stand for.
    """

    def __init__(self, likelihood: Likelihood = Likelihood.DICE_CROSS_ENTROPY, heads: Heads = Heads.EXCLUSIVE) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.heads = heads

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: `[N, C, X, Y, Z]`.
            targets: `[N, C + 1, X, Y, Z]`: the probability of each channel, then the weight of the voxel, 0 where
                nothing is known.

        Returns:
            A scalar; its cross-entropy part is Σ w · CE in nats, divided by the number of voxels with a weight. It is
            not divided by Σ w, so that a patch of which little is certain teaches little.
        """
        probability, weight = targets[:, :-1], targets[:, -1:]
        if self.heads is Heads.EXCLUSIVE:
            entropy = -(probability * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
        else:
            entropy = functional.binary_cross_entropy_with_logits(logits, probability, reduction="none").sum(
                dim=1, keepdim=True
            )
        cross_entropy = (weight * entropy).sum() / (weight > 0).sum().clamp_min(1)
        if self.likelihood is Likelihood.CROSS_ENTROPY:
            return cross_entropy
        return cross_entropy + self._dice(self.heads.probability(logits, dim=1), probability, weight)

    def _dice(self, predicted: Tensor, probability: Tensor, weight: Tensor) -> Tensor:
        first = 1 if self.heads is Heads.EXCLUSIVE else 0
        own, other = predicted[:, first:], probability[:, first:]
        axes = (0, 2, 3, 4)
        shared = (weight * torch.minimum(own, other)).sum(dim=axes)
        both = (weight * (own + other)).sum(dim=axes)
        return (1 - (2 * shared + _SMOOTH) / (both + _SMOOTH)).mean()


def shrink_targets(targets: Tensor, size: Sequence[int]) -> Tensor:
    """Resamples soft targets `[N, C + 1, X, Y, Z]` to `[N, C + 1, *size]` by means over the voxels."""
    if tuple(targets.shape[2:]) == tuple(size):
        return targets
    return functional.interpolate(targets, size=tuple(size), mode="area")


def uncertainty_weight(uncertainty: Tensor, scale: float, sharpness: float) -> Tensor:
    """Returns exp(−s · u / ū): 1 where nothing is uncertain, e⁻ˢ at the mean uncertainty ū.

    The form is that of Luo et al., "Efficient Semi-Supervised Gross Target Volume of Nasopharyngeal Carcinoma
    Segmentation via Uncertainty Rectified Pyramid Consistency", MICCAI 2021, whose u is a divergence between scales.

    Args:
        uncertainty: u of each voxel in nats, 0 or more.
        scale: ū in nats; with 0 nothing is uncertain.
        sharpness: s.
    """
    if scale <= 0 or sharpness == 0:
        return torch.ones_like(uncertainty)
    return torch.exp(-sharpness * uncertainty / scale)
