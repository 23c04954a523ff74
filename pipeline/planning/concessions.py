"""What is given up, step by step, where a study does not fit into its time; the grid goes last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import DEFAULT_ARM, FITTED_READING, PRESETS, REFERENCE_ARM, resolve_arm

_ONE_MEMBER = "swag_calibrated"
"""The default arm with one member."""
_FOR_PRIORS = 3
"""Source networks whose filters a density is fitted to."""
TRANSFER_ARMS = (REFERENCE_ARM, "fine_tune", DEFAULT_ARM)
"""Training from scratch, plain fine-tuning, and the default arm."""
SCRATCH_ARMS = (REFERENCE_ARM,)
"""Without a source."""


@dataclass(frozen=True)
class Ambition:
    """How much a study does.

    Attributes:
        arms: presets by name.
        halvings: how often the channels of the network are halved.
        few_folds: whether at most five folds are made.
        read_alike: whether every arm fits how its probabilities are read: post-processing that one arm has and another
            lacks would count as a gain of the transfer.
        coarser: how many times fewer voxels the grid has than the data.
        given_up: what was given up for it, in words.
    """

    arms: tuple[str, ...] = TRANSFER_ARMS
    halvings: int = 0
    few_folds: bool = False
    read_alike: bool = True
    coarser: int = 1
    given_up: tuple[str, ...] = ()

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """The arms with what they have other than their preset."""
        return {
            name: dict(FITTED_READING) if self.read_alike and not PRESETS[name].fit_reading else {}
            for name in self.arms
        }

    @property
    def options(self) -> Mapping[str, ArmOptions]:
        """The arms with their options."""
        return {name: ArmOptions.model_validate(resolve_arm(name, changes)) for name, changes in self.changes.items()}

    @property
    def networks(self) -> int:
        """Source networks that the arms need: one for each that members of an arm start from, several for priors."""
        arms = self.options.values()
        starts = [arm.members * arm.components for arm in arms if arm.needs_source]
        fitted = any(arm.needs_prior or arm.needs_references for arm in arms)
        return max([*starts, _FOR_PRIORS if fitted else 0], default=0)


_STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one member of the default arm is trained instead of three", {"members": 1}),
    ("there are five folds instead of one for each patient", {"few_folds": True}),
    (
        "only the default arm fits temperature and post-processing, so the gain of the transfer holds that of these",
        {"read_alike": False},
    ),
    ("the network has half the channels", {"halvings": 1}),
    ("the grid has half the voxels of the data's", {"coarser": 2}),
    ("the grid has a quarter of the voxels of the data's", {"coarser": 4}),
    ("the grid has an eighth of the voxels of the data's", {"coarser": 8}),
)


def ambitions(first: Ambition, *, chosen_arms: bool, many_folds: bool, own_network: bool) -> Iterator[Ambition]:
    """Yields from the whole study to the least.

    Args:
        first: the whole study.
        chosen_arms: whether somebody chose the arms, so that none is replaced.
        many_folds: whether there are more folds to give up than five.
        own_network: whether the study is free to choose network, patch and grid, which a source pack decides.
    """
    ambition = first
    yield ambition
    possible = {"members": DEFAULT_ARM in first.arms and not chosen_arms, "few_folds": many_folds}
    possible["halvings"] = possible["coarser"] = own_network
    # Without the default arm nothing would be fitted.
    possible["read_alike"] = any(PRESETS[arm].fit_reading for arm in first.arms)
    for words, changes in _STEPS:
        if not all(possible.get(key, True) for key in changes):
            continue
        if "members" in changes:
            arms = tuple(_ONE_MEMBER if arm == DEFAULT_ARM else arm for arm in ambition.arms)
            changes = {"arms": arms}
        # A coarser grid replaces what was said of the last one.
        kept = ambition.given_up[:-1] if ambition.coarser > 1 else ambition.given_up
        ambition = replace(ambition, **changes, given_up=(*kept, words))
        yield ambition
