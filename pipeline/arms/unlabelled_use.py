"""How an arm uses scans without annotation: a choice orthogonal to all others."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from data.options import Options

FEWEST_UNLABELLED = 5
"""Unlabelled scans that an arm which learns from them needs."""


class Weighting(StrEnum):
    """What the weight of a voxel of a pseudo-label follows."""

    MUTUAL_INFORMATION = "mutual_information"
    """exp(−s · I / Ī) with the mutual information I between the voxel's label and the network's weights."""
    CONFIDENCE = "confidence"
    """The probability of the most probable class."""
    NONE = "none"
    """Every voxel weighs the same."""


class NoUnlabelledOptions(Options):
    """The arm learns from annotated scans alone."""

    kind: Literal["none"] = "none"


class SelfTrainingOptions(Options):
    """Rounds in which a student learns from annotated scans and from what a teacher predicts in all others.

    The teacher of a round is the arm of the round before, and round 0 is the arm without unlabelled scans.
    """

    kind: Literal["self_training"] = "self_training"
    rounds: int = Field(
        default=1,
        ge=0,
        description="Most rounds. The one that predicts the arm's own training patients best, out of fold, is kept, "
        "and round 0 is among them; without inner folds the last one is.",
    )
    weighting: Weighting = Field(
        default=Weighting.MUTUAL_INFORMATION,
        description="What the weight of a voxel follows. A single pass of a single network has no mutual information: "
        "its predictive entropy takes that place.",
    )
    sharpness: float = Field(
        default=1.0,
        ge=0,
        description="s: how fast the weight falls with the uncertainty, in units of its mean Ī over the predicted "
        "structures; 0 gives all voxels the same weight.",
    )
    kept: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of the plausible scans that enter: those with the least mean uncertainty inside the "
        "predicted structures.",
    )
    span: float = Field(
        default=2.0,
        ge=1,
        description="A scan is plausible if the volume of each structure is between the smallest of the annotated "
        "training scans divided by this, and the largest one multiplied by it.",
    )
    patches: int = Field(default=2, ge=1, description="Patches of unlabelled scans in a step, beside the annotated.")
    weight: float = Field(default=1.0, gt=0, description="Weight of the loss on unlabelled patches after its rise.")
    ramp_up: float = Field(
        default=0.3, ge=0, le=1, description="Share of the steps over which that weight rises, as exp(−5 (1 − t)²)."
    )
    average_from: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of a student's steps after which its weights are averaged, 1 for never. `posterior: swag` "
        "averages them itself, and components of a mixture are not averaged.",
    )


UnlabelledUse = Annotated[NoUnlabelledOptions | SelfTrainingOptions, Field(discriminator="kind")]
