"""Labels of voxels that nobody has annotated, such as nnU-Net's `ignore`: they count in no loss and no metric."""

from __future__ import annotations

import re
from collections.abc import Mapping

_IGNORE = re.compile(r"\s*ignored?[\s_-]*(label|labels|index|value|class|region|voxels?|area)?\s*", re.IGNORECASE)


def ignored_values(names: Mapping[int, str]) -> tuple[int, ...]:
    """Returns the values whose name is `ignore` or the like: training must not treat their voxels as background."""
    return tuple(value for value, name in names.items() if _IGNORE.fullmatch(name))
