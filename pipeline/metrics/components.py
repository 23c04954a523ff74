"""The connected components of a mask."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.metrics.overlap import Mask


class Connectivity(StrEnum):
    """Which neighbours of a voxel belong to the same component."""

    FACES = "faces"
    """The 6 that share a face."""
    EDGES = "edges"
    """The 18 that share a face or an edge."""
    CORNERS = "corners"
    """All 26 around it."""


_ORDER = {Connectivity.FACES: 1, Connectivity.EDGES: 2, Connectivity.CORNERS: 3}


def components(mask: Mask, connectivity: Connectivity) -> NDArray[np.int32]:
    """Numbers the connected components of `[X, Y, Z]` from 1; 0 is background."""
    structure = ndimage.generate_binary_structure(3, _ORDER[connectivity])
    numbered, _ = ndimage.label(mask, structure=structure)
    return numbered.astype(np.int32, copy=False)


def component_voxels(numbered: NDArray[np.int32]) -> NDArray[np.int64]:
    """Counts the voxels `[N]` of the components with the numbers 1…N."""
    return np.bincount(numbered.ravel())[1:]


def large_enough(voxels: NDArray[np.int64], voxel_volume: float, minimum_volume: float) -> Mask:
    """Returns which components `[N]` count: those of at least `minimum_volume`, in mm³ like `voxel_volume`."""
    return voxels >= minimum_volume / voxel_volume - 1e-9
