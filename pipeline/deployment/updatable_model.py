"""A trained model whose posterior is updated with new patients (`update_from` of an arm)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import ModelError
from pipeline.arms.incremental_update import EarlierPosterior
from pipeline.arms.target_network import TargetNetwork
from pipeline.deployment.model_folder import find_model, read_description


@dataclass(frozen=True)
class UpdatableModel:
    """A model that can be updated: its SHA-256 and the posterior of each member."""

    digest: str
    members: tuple[EarlierPosterior, ...]

    def member(self, number: int) -> EarlierPosterior:
        """The posterior that a new member is combined with; a model with fewer members provides them in turn."""
        return self.members[number % len(self.members)]


def find_updatable(folder: Path, network: TargetNetwork) -> UpdatableModel:
    """Finds a model with a posterior over the weights of a network; its files are checked, its weights not yet read.

    Args:
        folder: of the arm, or its model folder.
        network: the network of the new training.

    Raises:
        ModelError: the folder holds no model, a damaged one, or one that cannot be updated.
    """
    description, digest = read_description(folder)
    own = description.target_network
    kind = description.arm.posterior.kind
    compared = {
        "posterior": (kind, kind if description.arm.is_variational else "`mean_field` or `mixture`"),
        "network": (own.options, network.options),
        "channels": (own.channels, network.channels),
        "heads": (own.heads.value, network.heads.value),
        "classes": (own.outputs, network.outputs),
    }
    for key, (found, expected) in compared.items():
        if found != expected:
            raise ModelError(
                f"`update_from` is {folder}, whose {key} is {found}",
                expected=str(expected),
                fix="update from an arm with the same network and target and a variational posterior",
            )
    own_folder = find_model(folder)
    members = tuple(EarlierPosterior(description.arm, own_folder / name) for name in description.members)
    return UpdatableModel(digest, members)
