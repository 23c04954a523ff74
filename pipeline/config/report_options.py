"""Options of the report."""

from __future__ import annotations

from pydantic import Field

from data.options import Options


class ReportOptions(Options):
    """What the report shows and how large its pictures are."""

    overlay_arms: int = Field(default=2, ge=1, le=12)
    """Arms whose segmentations are shown: the best at the largest size, then the best rival, then by mean Dice."""
    overlay_margin_mm: float = Field(default=20.0, ge=0, le=500)
    """Anatomy in mm shown around the structure on each side."""
    radiological: bool = False
    """Show the subject's left on the right of coronal and axial slices, as radiologists do, instead of on the left. The
    pages of the cases have a switch for it."""
    case_arms: int = Field(default=4, ge=1, le=64)
    """Arms on the pages of the test cases and in the comparison of uncertainty with error, chosen as above."""
    case_pages: int = Field(default=60, ge=0, le=10_000)
    """Test cases that get a page with a slice viewer: the best, the median, and then from the worst one up."""
    audited_cases: int = Field(default=4, ge=1, le=100)
    """Annotations that are drawn in the label audit, the most surprising first."""
    viewer_voxels: int = Field(default=1_000_000, ge=1000, le=64_000_000)
    """Voxels of a case in its viewer; finer grids are joined to fit. A million make a page of about 0.2 MB."""
    quality_cases: int = Field(default=4, ge=1, le=200)
    """Preprocessing pictures shown for each dataset, suspect cases first."""
    thumbnail_width: int = Field(default=960, ge=100, le=2000)
    """Width in pixels of the preprocessing pictures."""
    dpi: int = Field(default=150, ge=50, le=600)
    """Resolution of the figures."""
    vector_figures: bool = True
    """Write every figure as SVG as well, whose text can be edited. This took a fifth of the time of a small report."""
    filters_shown: int = Field(default=12, ge=2, le=24)
    """Trained filters, and samples of each density, that are drawn side by side for a group."""
    filters_sampled: int = Field(default=20_000, ge=100)
    """Filters of a group behind its histograms, spectra and latents, drawn at random where there are more."""
    filter_groups: int = Field(default=16, ge=1)
    """Groups of layers on the page of filters."""
    filter_vaes: int = Field(default=2, ge=1)
    """VAE densities whose latents are shown for a group, the best on held-out filters first."""
    hardly_moved: float = Field(default=0.1, ge=0, le=1)
    """Distance from the initialisation, as a share of its norm, below which a filter counts as hardly moved."""
