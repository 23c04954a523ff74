"""What is read from averaged probabilities: how certain they are taken to be, which mask, which volume interval.

A reading is applied to what a prediction stored, by the evaluation, the report, `graft predict` and bundles. Changing
it trains and predicts nothing again.
"""

from __future__ import annotations

from pydantic import Field

from data.options import Options
from pipeline.prediction.dice_thresholds import MaskRule


class ReadingOptions(Options):
    """How averaged probabilities are read."""

    logit_temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of the averaged probabilities; above 1 they are less certain. To be found on other labels
    than the target's, such as a development task's."""
    mask: MaskRule = MaskRule.MOST_PROBABLE
    """Which mask is made of the averaged probabilities: `most_probable`, or `expected_dice`, the one that expects the
    best Dice of itself (sensible where they are calibrated: with a `logit_temperature`)."""
    voxel_correlation: float | None = Field(default=None, ge=0, lt=1)
    """ρ: how far the voxels of a structure are wrong together; the volume interval is then that of the averaged
    probabilities with this correlation, and needs no draws. To be found where `logit_temperature` is. Without it the
    interval is that of the draws' masks."""
