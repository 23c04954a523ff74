"""How averaged probabilities are read: their temperature, the mask, its post-processing and the volume interval.

Evaluation, report, `graft predict` and bundles apply a reading to stored predictions. Changing it repeats no training
or prediction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import Field

from data.name_fields import Apart, LabelName
from data.options import Options
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule


class ReadingOptions(Options):
    """How averaged probabilities are read."""

    logit_temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of the averaged probabilities; values above 1 make them less certain. To be fitted on labels
    other than the target's, such as those of a development task."""
    mask: MaskRule = MaskRule.MOST_PROBABLE
    """The mask made from the averaged probabilities: `most_probable`, or `expected_dice`, the one with the best
    expected Dice (sensible for calibrated probabilities, that is with a `logit_temperature`)."""
    voxel_correlation: float | None = Field(default=None, ge=0, lt=1)
    """ρ: correlation of the errors of a structure's voxels; the volume interval is then computed from the averaged
    probabilities and needs no draws. To be fitted like `logit_temperature`. Without it, the interval is that of the
    draws' masks."""
    post_processing: Annotated[dict[LabelName, ComponentRule], Apart] = Field(default_factory=dict)
    """Class → what is kept of the connected components of its mask; every component of a class that is not named."""

    def rules(self, classes: Sequence[str]) -> tuple[ComponentRule, ...]:
        """The rule of each class."""
        return tuple(self.post_processing.get(name, ComponentRule()) for name in classes)

    def unknown_classes(self, classes: Collection[str]) -> list[str]:
        """Names in `post_processing` that are no class."""
        return [name for name in self.post_processing if name not in classes]

    @property
    def kept_in_words(self) -> str:
        """What `post_processing` keeps, for a sentence; empty without a rule."""
        return " and ".join(f"of “{name}” {rule.words}" for name, rule in self.post_processing.items())
