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
    """A model that can be updated.

    Attributes:
        digest: SHA-256 of the model.
        members: the posterior of each of its members.
    """

    digest: str
    members: tuple[EarlierPosterior, ...]

    def member(self, number: int) -> EarlierPosterior:
        """The posterior that a new member joins; a model with fewer members gives them in turn."""
        return self.members[number % len(self.members)]


def find_updatable(folder: Path, network: TargetNetwork) -> UpdatableModel:
    """Finds a model with a posterior over the weights of a network; its files are checked, its weights not yet read.

    Args:
        folder: of the unit, or its model folder.
        network: which network.

    Raises:
        ModelError: the folder holds no model, a damaged one, or one that cannot be updated.
    """
    description, digest = read_description(folder)
    found = {
        "posterior": description.arm.posterior.kind if not description.arm.is_variational else "",
        "network": "" if description.network == network.options else str(description.network),
        "channels": "" if len(description.channels) == network.channels else str(len(description.channels)),
        "classes": "" if len(description.classes) + 1 == network.classes else str(len(description.classes) + 1),
    }
    expected = {
        "posterior": "`mean_field` or `mixture`",
        "network": str(network.options),
        "channels": str(network.channels),
        "classes": str(network.classes),
    }
    for key, value in found.items():
        if value:
            raise ModelError(
                f"`update_from` is {folder}, whose {key} is {value}",
                expected=expected[key],
                fix="update a unit of the same network and target, with a variational posterior",
            )
    own = find_model(folder)
    return UpdatableModel(digest, tuple(EarlierPosterior(description.arm, own / name) for name in description.members))
