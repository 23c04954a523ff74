"""How images of the source get the appearance of the target before the source networks learn from them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from data.options import Options
from models.translation.random_contrast import ContrastOptions


class NoTranslation(Options):
    """Source networks learn from source images as they are."""

    kind: Literal["none"] = "none"


class _Translation(Options):
    """What all translations have in common."""

    share: float = Field(default=0.8, gt=0, le=1)
    """Share of the drawn patches that are translated; the others stay as they are."""

    def in_recipe(self) -> dict[str, Any]:
        """What is prepared for a translation depends on it; the share only counts while networks are trained."""
        return self.model_dump(mode="json", exclude={"share"})


class Reference(StrEnum):
    """Which intensities of the target a source image gets."""

    SCAN = "scan"
    """Those of one target scan, drawn anew for each patch."""
    POOLED = "pooled"
    """Those of all target scans together: the mean of their quantiles."""


class HistogramMatching(_Translation):
    """Intensities get the distribution of the target: a monotone map for each channel, found on whole scans.

    Source: Nyúl, Udupa, "On standardizing the MR image intensity scale", Magnetic Resonance in Medicine 42 (1999) 1072.
    """

    kind: Literal["histogram"] = "histogram"
    reference: Reference = Reference.SCAN
    """Whose intensities."""
    points: int = Field(default=256, ge=2, le=4096)
    """Quantiles of each distribution."""


class FourierMatching(_Translation):
    """Low frequencies get the amplitudes of a target scan, drawn anew for each patch, at the same place of the scan.

    Source: Yang, Soatto, "FDA: Fourier domain adaptation for semantic segmentation", CVPR 2020.
    """

    kind: Literal["fourier"] = "fourier"
    beta: float = Field(default=0.05, ge=0, le=0.5)
    """β: the highest frequency that is swapped along each axis, in cycles per voxel; 0 for the mean alone."""


class RandomContrast(_Translation, ContrastOptions):
    """Images of random contrast, made from labels and tissue classes; no scan of the target is needed.

    Source: Billot et al., "SynthSeg", Medical Image Analysis 86 (2023) 102789.
    """

    kind: Literal["random_contrast"] = "random_contrast"


TranslationOptions = HistogramMatching | FourierMatching | RandomContrast
"""All translations."""
Translate = Annotated[NoTranslation | TranslationOptions, Field(discriminator="kind")]
"""The choice of a study."""
