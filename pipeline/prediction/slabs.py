"""Processing large maps slab by slab, so that temporaries stay small."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

_VOXELS = 2**19
"""Voxels of a slab: 2 MB for each temporary of single precision, which stays in the processor's cache."""


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Yields slices along the first axis of `[X, Y, Z]` that together cover it."""
    x, *others = shape
    step = max(1, _VOXELS // max(math.prod(others), 1))
    for start in range(0, x, step):
        yield slice(start, min(start + step, x))
