"""What somebody asks of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.modality import Modality


@dataclass(frozen=True)
class PlanRequest:
    """The options of `graft init`.

    Attributes:
        target: folder or manifest of the target.
        source: of the source.
        budget: time for the whole study, such as `2h`.
        name: of the study; that of the target's folder by default.
        modality: of the target, where the scans do not tell; and of the source unless it has one of its own.
        source_modality: of the source.
        channels: used ones; those that both have by default.
        foreground: structures of the target; all by default.
        source_foreground: structures of the source; all by default.
        patients: annotated patients of the target that are used; all by default.
        steps_per_second: of a training with the planned patch at the finest planned grid; measured by default.
    """

    target: Path
    source: Path
    budget: str = "2h"
    name: str | None = None
    modality: Modality | None = None
    source_modality: Modality | None = None
    channels: tuple[str, ...] | None = None
    foreground: str | None = None
    source_foreground: str | None = None
    patients: int | None = None
    steps_per_second: float | None = None
