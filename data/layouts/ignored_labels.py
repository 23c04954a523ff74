"""Labels that mark voxels to leave out, such as nnU-Net's `ignore`: not supported, and never treated as background."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from data.errors import DataError

_IGNORE = re.compile(r"\s*ignored?[\s_-]*(label|labels|index|value|class|region|voxels?|area)?\s*", re.IGNORECASE)


def refuse_ignored(path: Path, names: Mapping[int, str]) -> None:
    """Refuses a label called `ignore` or the like: training would treat its voxels as background.

    Raises:
        DataError: there is such a label.
    """
    for value, name in names.items():
        if _IGNORE.fullmatch(name):
            raise DataError(
                f"{path}: label {name!r} (value {value}) marks voxels to leave out, which Graft cannot do yet",
                expected="a label for every voxel",
                fix="give the voxels another label, background for instance, and remove that name",
            )
