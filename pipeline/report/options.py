"""Options of the report."""

from __future__ import annotations

from pydantic import Field

from pipeline.config.options import Options


class ReportOptions(Options):
    """What the report shows and how large its pictures are."""

    rivals: tuple[str, ...] | None = None
    """Arms that count as non-Bayesian: every other arm is compared with the best of them. By default the
    point estimates that neither start from a filter prior nor are held by one."""
    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap resamples behind the intervals of the paired differences."""
    overlay_arms: int = Field(default=2, ge=1, le=12)
    """Arms whose segmentations are shown: the best at the largest size, then the best rival, then by mean Dice."""
    overlay_margin_mm: float = Field(default=20.0, ge=0, le=500)
    """Anatomy in mm shown around the structure on each side."""
    quality_cases: int = Field(default=8, ge=1, le=200)
    """Preprocessing pictures shown for each dataset, suspect cases first."""
    thumbnail_width: int = Field(default=960, ge=100, le=2000)
    """Width in pixels of the preprocessing pictures."""
    dpi: int = Field(default=150, ge=50, le=600)
    """Resolution of the figures."""
