"""Options of a prediction."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from data.options import Options

GATE_PERCENTILE = 0.99
"""Share of scans like those of the training of which nothing is said by default."""


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
    gate: float = Field(default=GATE_PERCENTILE, ge=0.5, le=1)
    """Percentile of how unlike the training scans a scan may be, in the features of the network; 1 allows all."""
    refuse_other_modality: bool = True
    """Refuse CT where the model is for MR, instead of flagging it."""

    @model_serializer(mode="wrap")
    def _without_the_rule(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The default of the gate is not written: what was predicted before there was one stays as it is."""
        content: dict[str, Any] = dump(self)
        if self.gate == GATE_PERCENTILE:
            content.pop("gate", None)
        return content


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
