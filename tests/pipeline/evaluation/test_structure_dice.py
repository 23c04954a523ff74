"""Dice of each structure, whatever the heads, on annotated voxels."""

from __future__ import annotations

import numpy as np
import pytest

from models.heads import IGNORED, Heads
from pipeline.metrics.structure_dice import structure_dice


@pytest.mark.parametrize(
    ("heads", "predicted", "reference", "expected"),
    [
        # One voxel of three of the second class is found; a wrong one lies where nobody has annotated.
        (Heads.EXCLUSIVE, [1, 1, 2, 0, 0, 2], [1, 1, 2, 2, 2, IGNORED], [1.0, 0.5]),
        # A voxel may belong to both: codes are sets of bits.
        (Heads.OVERLAPPING, [3, 1, 2, 0, 3], [3, 3, 2, 0, IGNORED], [1.0, 0.8]),
    ],
)
def test_every_structure_is_compared_where_somebody_has_annotated(
    heads: Heads, predicted: list[int], reference: list[int], expected: list[float]
) -> None:
    shape = (len(predicted), 1, 1)
    found = structure_dice(np.reshape(predicted, shape), np.reshape(reference, shape), heads, 2)
    assert found == pytest.approx(expected)
