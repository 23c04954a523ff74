"""What was prepared for a translation of the source, and how far it brings source patches to those of the target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from data.stored_record import WHOLE, StoredRecord
from pipeline.training.translation_options import TranslationOptions

ABOUT = "translation.json"
"""`TranslationRecord`."""


class KernelDistances(StoredRecord):
    """Squared maximum mean discrepancies between samples of patches, on features of a fixed random network."""

    before: float
    """Source patches as they are, and target patches."""
    after: float
    """The same source patches, all of them translated, and target patches."""
    within: float
    """Two halves of the target patches: what chance leaves of a distance of 0."""
    patches: int
    """Patches of each sample."""


class TranslationRecord(StoredRecord):
    """The content of `translation.json`."""

    options: Annotated[TranslationOptions, WHOLE, Field(discriminator="kind")]
    """The translation."""
    source_scans: int
    """Number of source scans."""
    patients: dict[str, tuple[str, ...]]
    """`pool`, `unlabelled` → patients whose scans it may use; their labels are not read."""
    target_scans: int
    """Number of their scans."""
    distances: KernelDistances | None = None
    """None without target scans."""
