"""A volume: an array and its affine. The only thing that crosses a package border as image data."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Volume:
    """An array of voxels and where they lie in the world.

    Attributes:
        array: `[X, Y, Z]`, any numeric type.
        affine: `[4, 4]` float64, voxel indices to RAS+ millimetres.
    """

    array: NDArray
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        if self.array.ndim != 3:
            raise ValueError(f"a volume is 3D, not {self.array.ndim}D (shape {self.array.shape})")
        if affine.shape != (4, 4):
            raise ValueError(f"an affine is 4×4, not {affine.shape}")
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each axis."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> NDArray[np.float64]:
        """`[3]` distance in mm between voxel centres along each array axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def orientation(self) -> str:
        """Three letters: where each array axis points to, e.g. `RAS`."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def with_array(self, array: NDArray) -> Volume:
        """Returns a volume on the same grid with other values."""
        if array.shape != self.array.shape:
            raise ValueError(f"the grid has shape {self.array.shape}, the array {array.shape}")
        return Volume(array, self.affine)

    def same_grid(self, other: Volume, tolerance: float = 1e-3) -> bool:
        """Whether both have the same shape and no corner lies farther apart than `tolerance` mm."""
        return self.shape == other.shape and corner_displacement(self, other) <= tolerance


def corners(volume: Volume) -> NDArray[np.float64]:
    """Returns `[8, 3]` world coordinates in mm of the centres of the eight corner voxels."""
    ends = np.array([[0, n - 1] for n in volume.shape])
    index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    return nib.affines.apply_affine(volume.affine, index)


def corner_displacement(first: Volume, second: Volume) -> float:
    """Returns the largest distance in mm between corresponding corners of two grids of one shape."""
    if first.shape != second.shape:
        raise ValueError(f"grids of different shape: {first.shape} and {second.shape}")
    return float(np.linalg.norm(corners(first) - corners(second), axis=1).max())
