"""What an arm takes from the source, and the normal priors over single weights that follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.filters import FilterLayer, get_filters
from models.networks.weight_transfer import fitting_weights
from models.other_weights import WeightLayout
from models.priors.prior import FilterPrior
from models.weight_gaussian import WeightGaussian
from pipeline.arms.choices import L2, L2_SP, ArmOptions, BayesianScope, OtherPrior
from pipeline.arms.starting_point import Groups

_LEAST_STD = 1e-3
"""Lower bound for the normal fitted to a parameter's values: a parameter that never moved has no spread."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class SourceKnowledge:
    """What an arm takes from the source.

    Attributes:
        states: weights of the source networks, or of the image model, that this member starts from (or, with `l2_sp`,
            is penalised towards), one for each component of its posterior; empty if there are none.
        priors: group → fitted density, if the arm has one.
        groups: group → layers of the source network.
        references: weights of the source networks that the prior of the other weights is fitted to, if it is.
    """

    states: Sequence[State] = ()
    priors: Mapping[str, FilterPrior] = field(default_factory=dict)
    groups: Groups = field(default_factory=dict)
    references: Sequence[State] = ()


def filter_penalty(
    arm: ArmOptions, own: State, layers: Sequence[FilterLayer], source: State | None
) -> WeightGaussian | None:
    """The normal prior `l2`, or `l2_sp` around `source`, over the learned filters, `[F, 27]`; else `None`."""
    if arm.prior not in {L2, L2_SP}:
        return None
    means, stds = _penalty(arm, own, source)
    return WeightGaussian(get_filters(means, layers), get_filters(stds, layers))


def other_weight_prior(
    arm: ArmOptions, own: State, layout: WeightLayout, source: State | None, references: Sequence[State]
) -> WeightGaussian | None:
    """The normal prior over the learned weights that are not filters, `[P, 1]`; `None` if they have none.

    `l2_sp` is centred on `source`; `other_prior: source` is fitted to the `references`, parameter by parameter.
    """
    if arm.prior in {L2, L2_SP}:
        means, stds = _penalty(arm, own, source)
        return WeightGaussian(layout.join(means), layout.join(stds))
    if arm.bayesian_scope is not BayesianScope.ALL or not arm.is_variational:
        return None
    moments = {name: _moments(name, arm, references) for name in layout.names}
    means = {name: torch.full_like(own[name], moments[name][0]) for name in layout.names}
    stds = {name: torch.full_like(own[name], moments[name][1]) for name in layout.names}
    return WeightGaussian(layout.join(means), layout.join(stds))


def _penalty(arm: ArmOptions, own: State, source: State | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means and standard deviations by parameter name."""
    means = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
    stds = {name: torch.full_like(tensor, arm.l2_std) for name, tensor in own.items() if tensor.is_floating_point()}
    if arm.prior == L2_SP and source is not None:
        fitting, _ = fitting_weights(own, source)
        means |= fitting
        stds |= {name: torch.full_like(own[name], arm.l2_sp_std) for name in fitting if name in stds}
    return means, stds


def _moments(name: str, arm: ArmOptions, references: Sequence[State]) -> tuple[float, float]:
    """Mean and standard deviation of a parameter's values in the source networks."""
    found = [state[name].flatten().double() for state in references if name in state]
    if arm.other_prior is OtherPrior.NORMAL or not found:
        return 0.0, arm.other_std
    numbers = torch.cat(found)
    return float(numbers.mean()), max(float(numbers.std(correction=0)), _LEAST_STD)
