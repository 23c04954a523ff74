"""What kind of scan a dataset holds."""

from __future__ import annotations

from enum import StrEnum


class Modality(StrEnum):
    """What kind of scan a dataset holds; it decides the default chain, and which values are plausible."""

    MR_HEAD = "mr_head"
    """Raw MR of a head, skull and scalp in view."""
    MR_BRAIN = "mr_brain"
    """MR of a brain that is skull-stripped already; the background is one value, not always 0."""
    MR = "mr"
    """Any other MR, such as a small region or another organ."""
    CT = "ct"
    """CT in Hounsfield units."""
