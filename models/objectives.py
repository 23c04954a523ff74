"""The objective of learning the target: a data term per voxel and a KL term over filters.

Per step: `data_term + (T / N_vox) · Σ_filters [ −H(q) − E_q log p(w) ]`. With cross-entropy (a mean per voxel), patches
drawn without bias and T = 1 this is the negative ELBO per voxel; with Dice in the data term, foreground oversampling or
another T it is a generalised (tempered) posterior.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from data.errors import ModelError
from models.factorised_normal import FactorisedNormal
from models.filters import FilterLayer, FilterPositions, filter_positions
from models.heads import IGNORED, Heads
from models.posteriors.posterior import Posterior
from models.priors.prior import FilterPrior
from models.random_draws import random_rows


class Likelihood(StrEnum):
    """The data term."""

    CROSS_ENTROPY = "cross_entropy"
    """Mean negative log likelihood per voxel: the objective is an ELBO if T = 1."""
    DICE_CROSS_ENTROPY = "dice_cross_entropy"
    """Soft Dice loss and cross-entropy: a generalised posterior."""


class SegmentationLoss(nn.Module):
    """Data term of logits against labels; the soft Dice is that of the structures over the whole batch.

    Voxels without annotation count in neither. With overlapping structures, the cross-entropy is the sum of those of
    the structures (nnU-Net takes their mean), because that is the log likelihood of a voxel.
    """

    def __init__(self, likelihood: Likelihood = Likelihood.DICE_CROSS_ENTROPY, heads: Heads = Heads.EXCLUSIVE) -> None:
        # MONAI takes seconds to import, and a configuration needs only the enumeration of this file.
        from monai.losses import DiceLoss

        super().__init__()
        self.likelihood = likelihood
        self.heads = heads
        self.dice = DiceLoss(include_background=heads is Heads.OVERLAPPING, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            logits: `[N, C, X, Y, Z]`; for a network with deep supervision, wrap the loss in `DeepSupervisionLoss`.
            labels: `[N, X, Y, Z]`, codes of `Heads`.

        Returns:
            A scalar; its cross-entropy part is in nats per annotated voxel.
        """
        labels = labels.long()
        cross_entropy = self.heads.likelihood(logits, labels)
        if self.likelihood is Likelihood.CROSS_ENTROPY:
            return cross_entropy
        annotated = (labels != IGNORED)[:, None]
        probability = self.heads.probability(logits, dim=1) * annotated
        # No ignored voxel belongs to a channel.
        dice: Tensor = self.dice(probability, self.heads.truth(labels, logits.shape[1]).to(logits))
        return cross_entropy + dice


@dataclass(frozen=True)
class FilterGroups:
    """The groups of a network's filters, as rows of its filter matrix.

    Attributes:
        rows: row numbers `[F_g]` by group name.
        positions: positions of those rows by group name.
        count: all filters of the network, F.
    """

    rows: dict[str, Tensor]
    positions: dict[str, FilterPositions]
    count: int

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[FilterLayer]], network_layers: Sequence[FilterLayer]) -> FilterGroups:
        """Finds the rows of each group."""
        starts: dict[str, int] = {}
        count = 0
        for layer in network_layers:
            starts[layer.parameter] = count
            count += layer.count
        rows = {
            name: torch.cat([torch.arange(starts[lay.parameter], starts[lay.parameter] + lay.count) for lay in layers])
            for name, layers in groups.items()
        }
        return cls(rows, {name: filter_positions(layers, network_layers) for name, layers in groups.items()}, count)

    def to(self, device: torch.device | str) -> FilterGroups:
        """Returns the groups on another device."""
        return FilterGroups(
            {name: rows.to(device) for name, rows in self.rows.items()},
            {name: positions.to(device) for name, positions in self.positions.items()},
            self.count,
        )


@dataclass(frozen=True)
class KLTerm:
    """The KL part of the objective at one step.

    Attributes:
        kl: estimate of KL(q ‖ p) over all filters (an upper bound in expectation if a prior is a bound), nats.
        kl_per_group: the same by group, nats, detached.
    """

    kl: Tensor
    kl_per_group: dict[str, Tensor]


def kl_term(
    posterior: Posterior,
    priors: Mapping[str, FilterPrior],
    groups: FilterGroups,
    filters: Tensor | None = None,
    beside: Tensor | None = None,
    *,
    samples: int = 1,
    share: float = 1.0,
    generator: torch.Generator | None = None,
) -> KLTerm:
    """Estimates Σ_filters [ −H(q) − E_q log p(w) ]: in closed form where q and p are Gaussian, else from one draw.

    Args:
        posterior: q.
        priors: p by group name. A group without a prior is left out of the sum, and not regularised.
        groups: the rows of each group.
        filters: `[F, 27]`, the draw that the data term uses; drawn here if left out.
        beside: `[C]`, for a mixture the log density under each component of the weights drawn with the filters.
        samples: latent draws K of priors that are bounds.
        share: of the filters of each group whose prior is computed, a random subset without replacement, scaled up so
            that the estimate stays unbiased. Entropies are exact.
        generator: source of the draw, the subset and the latents.

    Raises:
        ModelError: if the posterior's filters are not those of the groups, or a number is out of range.
    """
    _check_kl_arguments(posterior, priors, groups, samples, share)
    drawn = posterior.sample(generator) if filters is None else filters
    entropies = posterior.entropy_term(drawn, beside)
    total = torch.zeros((), dtype=drawn.dtype, device=drawn.device)
    kls: dict[str, Tensor] = {}
    subsets = {name: _subset(groups.rows[name], share, generator) for name in priors}
    scored = [groups.rows[name][chosen] for name, chosen in subsets.items()]
    for (name, prior), rows, (part, own) in zip(priors.items(), scored, _blocks(posterior, drawn, scored), strict=True):
        where = groups.positions[name][subsets[name]]
        log_prior = prior.expected_log_prob(part, own, where, samples, generator)
        log_prior_sum = len(groups.rows[name]) / len(rows) * log_prior.sum() + prior.hyperprior_log_prob()
        group_kl = -entropies[groups.rows[name]].sum() - log_prior_sum
        total = total + group_kl
        kls[name] = group_kl.detach()
    return KLTerm(total, kls)


def _blocks(
    posterior: Posterior, drawn: Tensor, rows: Sequence[Tensor]
) -> list[tuple[Tensor, FactorisedNormal | None]]:
    """The draw and the normals of each block of rows."""
    if not rows:
        return []
    # One selection for all blocks: the gradient of each fills a matrix of all filters.
    every, sizes = torch.cat(list(rows)), [len(block) for block in rows]
    draws, normal = drawn.index_select(0, every).split(sizes), posterior.normal()
    normals = [None] * len(rows) if normal is None else normal.rows(every).split(sizes)
    return list(zip(draws, normals, strict=True))


def _subset(rows: Tensor, share: float, generator: torch.Generator | None) -> Tensor | slice:
    """Draws which of a group's rows are scored; all of them for a share of 1."""
    if share == 1:
        return slice(None)
    return random_rows(len(rows), _scored(len(rows), share), generator).to(rows.device)


def _scored(count: int, share: float) -> int:
    """How many of a group's filters are scored."""
    return max(1, round(share * count))


def thinning(groups: FilterGroups, names: Collection[str], share: float, draws: int = 1) -> Tensor:
    """Returns by how much the squared gradient of an estimate of `kl_term` exceeds that of the whole sum, `[F]`.

    With m of the n filters of a group scored, the gradient on a filter is n / m times the true one in m / n of the
    draws, and otherwise 0. Its square, for the mean over S draws, is on average n / (S m) + 1 − 1 / S times the true
    one.

    Args:
        groups: the rows of each group.
        names: of the groups that have a prior; all other filters get 1.
        share: of the filters of each group that is scored.
        draws: S, each with a subset of its own.
    """
    found = torch.ones(groups.count)
    for name in names:
        rows = groups.rows[name]
        found[rows.cpu()] = len(rows) / (draws * _scored(len(rows), share)) + 1 - 1 / draws
    return found


def _check_kl_arguments(
    posterior: Posterior,
    priors: Mapping[str, FilterPrior],
    groups: FilterGroups,
    samples: int,
    share: float,
) -> None:
    if posterior.count != groups.count:
        raise ModelError(f"a posterior over {posterior.count} filters for groups over {groups.count}")
    unknown = sorted(set(priors) - set(groups.rows))
    if unknown:
        raise ModelError(
            f"filter priors for the layer groups {unknown}",
            expected=f"groups among {sorted(groups.rows)}",
            fix="fit the priors with the grouping of the target network",
        )
    if samples < 1 or not 0 < share <= 1:
        raise ModelError(
            f"samples {samples}, share {share}",
            expected="samples ≥ 1, 0 < share ≤ 1",
        )


@torch.no_grad()
def bound_gap(
    prior: FilterPrior,
    filters: Tensor,
    where: FilterPositions | None,
    samples: int,
    reference_samples: int = 64,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Estimates how far the K-sample bound is from the density: the bound at many samples minus that at K = `samples`.

    Returns:
        Mean over filters, a scalar in nats per filter.
    """
    if not prior.is_bound:
        return torch.zeros((), device=filters.device)
    tight = prior.log_prob(filters, where, reference_samples, generator)
    return (tight - prior.log_prob(filters, where, samples, generator)).mean()
