"""Ready-made brain masks beside a layout that has no place for them."""

from __future__ import annotations

from pathlib import Path

from data.image_file import SUFFIXES

MASK_FOLDER = "masksTr"


def ready_made_mask(root: Path, case: str) -> Path | None:
    """Returns `masksTr/CASE` with any image suffix, if there is such a file."""
    candidates = (root / MASK_FOLDER / f"{case}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)
