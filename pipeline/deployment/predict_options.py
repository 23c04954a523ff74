"""Options of a prediction."""

from __future__ import annotations

from pydantic import Field

from data.options import Options


class SuspicionLimits(Options):
    """From where on a scan or its result counts as unlike the training cases."""

    intensity: float = Field(default=0.75, ge=0)
    """How far a percentile of the scaled intensities may leave the training span, in standard deviations of these."""
    size: float = Field(default=1.5, ge=1)
    """Factor by which spacing, field of view and mask volume may leave the training span."""
    contrast: float = Field(default=1.5, ge=1)
    """How many times farther than the training cases from each other the contrast of a scan may be from theirs."""
    structure: float = Field(default=3.0, ge=1)
    """Factor by which the volume of a structure may leave the training span."""
    refuse_other_modality: bool = True
    """Refuse CT where the model is for MR, instead of flagging it."""


class PredictOptions(Options):
    """How new scans are predicted; what is not here is the model's."""

    samples: int | None = Field(default=None, ge=1)
    """Draws from each member's posterior, each one pass over the scan; the model's own number by default."""
    tta: bool = False
    """Average each draw over mirrorings along the axes that the training mirrored."""
    probabilities: bool = False
    """Write the mean probability of each class."""
    pictures: bool = True
    """Draw three planes of each case."""
    limits: SuspicionLimits = SuspicionLimits()
    """When a case is flagged."""
