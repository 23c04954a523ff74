"""What is given up, step by step, where a study does not fit into its time; the grid goes last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipeline.arms.presets import DEFAULT_ARM, REFERENCE_ARM


@dataclass(frozen=True)
class Ambition:
    """How much a study does.

    Attributes:
        members: trainings of the Bayesian arm, each from a source network of its own.
        halvings: how often the channels of the network are halved.
        few_folds: whether at most five folds are made.
        coarser: how many times fewer voxels the grid has than the data.
        given_up: what was given up for it, in words.
    """

    members: int = 3
    halvings: int = 0
    few_folds: bool = False
    coarser: int = 1
    given_up: tuple[str, ...] = ()

    @property
    def arms(self) -> list[str]:
        """Training from scratch, plain fine-tuning, and the default arm or one member of it."""
        return [REFERENCE_ARM, "fine_tune", DEFAULT_ARM if self.members > 1 else "swag_calibrated"]


_STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one member of the default arm is trained instead of three", {"members": 1}),
    ("there are five folds instead of one for each patient", {"few_folds": True}),
    ("the network has half the channels", {"halvings": 1}),
    ("the grid has half the voxels of the data's", {"coarser": 2}),
    ("the grid has a quarter of the voxels of the data's", {"coarser": 4}),
    ("the grid has an eighth of the voxels of the data's", {"coarser": 8}),
)


def ambitions(many_folds: bool) -> Iterator[Ambition]:
    """Yields from the whole study to the least.

    Args:
        many_folds: whether there are more folds to give up than five.
    """
    ambition = Ambition()
    yield ambition
    for words, changes in _STEPS:
        if "few_folds" in changes and not many_folds:
            continue
        # A coarser grid replaces what was said of the last one.
        kept = ambition.given_up[:-1] if ambition.coarser > 1 else ambition.given_up
        ambition = replace(ambition, **changes, given_up=(*kept, words))
        yield ambition
