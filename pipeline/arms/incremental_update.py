"""The incremental use of a mixture: p(w|D, D_new) ≈ (1 − α) q(w|D) + α q(w|D_new)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from data.errors import ModelError
from models.bayesian_network import BayesianNetwork
from models.other_weights import OtherWeights
from models.posteriors.mean_field import MeanField
from models.posteriors.mixture import Mixture, combine
from models.posteriors.point import Point
from pipeline.arms.choices import ArmOptions, Trainable
from pipeline.arms.member import other_layouts
from pipeline.arms.member_file import read_member
from pipeline.arms.target_network import TargetNetwork


@dataclass(frozen=True)
class EarlierPosterior:
    """The posterior q(w|D) of a member trained earlier: its choices, and the file of its weights and posterior."""

    arm: ArmOptions
    member: Path

    def read(self, network: TargetNetwork) -> BayesianNetwork:
        """Reads the posterior.

        Raises:
            ModelError: it belongs to a different network.
            WorkspaceError: the file is missing or damaged.
        """
        return read_member(self.member, self.arm, network)


def updated_posterior(
    old: BayesianNetwork, new: BayesianNetwork, trainable: Trainable, share_of_new: float | Literal["auto"]
) -> BayesianNetwork:
    """Returns a network with the posterior (1 − α) q(w|D) + α q(w|D_new) of the networks `old` and `new`.

    Args:
        old: may itself be the outcome of an update; its components keep their weights relative to each other.
        new: learned from the new data alone.
        trainable: the choice of both arms.
        share_of_new: α; with `auto` all components count alike. Where every data set gave as many, that is 1/T for
            data set T.

    Raises:
        ModelError: if the posteriors are over different weights.
    """
    if old.layers != new.layers:
        raise _differing("layers", "the same `trainable` and the same network")
    before, added = _mixture(old), _mixture(new)
    if share_of_new == "auto":
        share_of_new = len(added.components) / (len(before.components) + len(added.components))
    posterior = combine(before, added, share_of_new)
    parts = [_others(member, trainable) for member in (old, new)]
    kinds = {type(posterior) for part in parts for posterior in part.posteriors}
    if parts[0].layout != parts[1].layout or parts[0].fixed_layout != parts[1].fixed_layout or len(kinds) > 1:
        raise _differing("weights", "the same `bayesian_scope` and `trainable`")
    posteriors = [part.posterior(index) for part in parts for index in range(len(part.posteriors))]
    fixed = torch.cat([part.fixed for part in parts])
    others = OtherWeights(parts[0].layout, posteriors, parts[0].fixed_layout, fixed)
    return BayesianNetwork(new.network, posterior, new.layers, others)


def _differing(what: str, expected: str) -> ModelError:
    found = f"the old and the new posterior cover different {what}"
    return ModelError(found, expected=expected, fix="update from an arm with the same choices")


def _mixture(member: BayesianNetwork) -> Mixture:
    posterior = member.posterior
    if isinstance(posterior, MeanField):
        return Mixture([posterior])
    if isinstance(posterior, Mixture):
        return posterior
    raise ModelError(f"an update of a posterior of class {type(posterior).__name__}", expected="mean-field or mixture")


def _others(member: BayesianNetwork, trainable: Trainable) -> OtherWeights:
    """The weights that are not filters, taken from the network where they are ordinary parameters."""
    held = member.others
    if held is not None and isinstance(member.posterior, Mixture):
        return held
    state = member.network.state_dict()
    layout, fixed_layout = other_layouts(member.network, member.layers, trainable)
    fixed = fixed_layout.join(state)[None].to(member.posterior.mean().device)
    posterior = Point(layout.join(state)) if held is None else held.posterior(0)
    return OtherWeights(layout, [posterior], fixed_layout, fixed)
