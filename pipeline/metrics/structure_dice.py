"""Dice of every structure of a label map of codes (`Heads`), where somebody has annotated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.heads import IGNORED, Heads
from pipeline.metrics.overlap import count_voxels, dice


def structure_dice(
    predicted: NDArray[np.integer], reference: NDArray[np.integer], heads: Heads, structures: int
) -> list[float]:
    """Compares two maps of codes on the voxels that are annotated in the reference.

    Args:
        predicted: `[X, Y, Z]`, codes of `heads`.
        reference: `[X, Y, Z]`, the same, `IGNORED` where nobody has annotated.
        heads: what the codes mean.
        structures: how many there are.

    Returns:
        Dice of structure 1, 2, ….
    """
    annotated = reference != IGNORED
    return [
        dice(count_voxels(heads.belongs(predicted, number) & annotated, heads.belongs(reference, number)))
        for number in range(1, structures + 1)
    ]
