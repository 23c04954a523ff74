"""Options of a prediction."""

from __future__ import annotations

from pydantic import Field

from data.options import Options


class SuspicionLimits(Options):
    """Limits beyond which a scan or its result counts as unlike the training cases."""

    intensity: float = Field(default=0.75, ge=0)
    """How far a percentile of the scaled intensities may lie outside the training span, in standard deviations."""
    size: float = Field(default=1.5, ge=1)
    """Factor by which spacing, field of view and mask volume may lie outside the training span."""
    contrast: float = Field(default=1.5, ge=1)
    """Largest distance of a scan's contrast from the training cases, as a multiple of their own spread."""
    structure: float = Field(default=3.0, ge=1)
    """Factor by which the volume of a structure may lie outside the training span."""
    refuse_other_modality: bool = True
    """Refuse CT where the model is for MR, instead of flagging it."""


class PredictOptions(Options):
    """How new scans are predicted; all other settings are those of the model."""

    samples: int | None = Field(default=None, ge=1)
    """Draws from each member's posterior, each one pass over the scan; by default as many as in the study."""
    tta: bool = False
    """Average each draw over mirrorings along the axes that the training mirrored."""
    probabilities: bool = False
    """Write the mean probability of each class."""
    pictures: bool = True
    """Draw three planes of each case."""
    limits: SuspicionLimits = SuspicionLimits()
    """When a case is flagged."""
