"""Ready-made brain masks beside a layout that has no place for them."""

from __future__ import annotations

from pathlib import Path

from data.image_file import SUFFIXES
from data.names import check_name

MASK_FOLDER = "masksTr"


def ready_made_mask(root: Path, case: str) -> Path | None:
    """Returns `masksTr/CASE` with any image suffix, if there is such a file.

    Raises:
        DataError: the name of the case cannot be part of a path.
    """
    check_name("case", case, root)
    candidates = (root / MASK_FOLDER / f"{case}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)
