"""Options of the evaluation."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.options import Options
from pipeline.evaluation.metrics import EmptyMaskPolicy


class EvaluationOptions(Options):
    """How predictions are measured and averaged."""

    empty_masks: EmptyMaskPolicy = EmptyMaskPolicy.REWARD_AGREEMENT
    """What empty masks give."""
    surface_tolerance: float = Field(default=2.0, gt=0)
    """Tolerance of the surface Dice in mm."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples behind the intervals."""
