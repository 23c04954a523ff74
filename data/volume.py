"""A volume: an array and its affine. The only thing that crosses a package border as image data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from data.nifti_file import nifti_image, storable

# Largest displacement of a corner, as a share of the smallest spacing, that counts as rounding in the header.
SNAP_TOLERANCE = 0.25


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

    def to_nibabel(self) -> nib.Nifti1Image:
        """Returns a NIfTI image with the same voxels and affine, in mm; booleans become 0 and 1.

        Raises:
            DataError: it holds integers of more than 32 bits.
        """
        return nifti_image(storable(self.array, Path("the image")), self.affine)

    def same_grid(self, other: Volume, tolerance: float = 1e-3) -> bool:
        """Whether both have the same shape and no corner lies farther apart than `tolerance` mm."""
        return self.shape == other.shape and corner_displacement(self, other) <= tolerance


def _corner_positions(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    ends = [[0, n - 1] for n in shape]
    index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    return apply_affine(affine, index)


def corners(volume: Volume) -> NDArray[np.float64]:
    """Returns `[8, 3]` world coordinates in mm of the centres of the eight corner voxels."""
    return _corner_positions(volume.affine, volume.shape)


def affine_displacement(first: NDArray[np.float64], second: NDArray[np.float64], shape: Sequence[int]) -> float:
    """Returns the largest distance in mm between the corners of one array `[X, Y, Z]` under two affines.

    The displacement is an affine function of the index, so no other voxel moves farther than the farthest corner.
    """
    difference = _corner_positions(first, shape) - _corner_positions(second, shape)
    return float(np.linalg.norm(difference, axis=1).max())


def corner_displacement(first: Volume, second: Volume) -> float:
    """Returns the largest distance in mm between corresponding corners of two grids of one shape."""
    if first.shape != second.shape:
        raise ValueError(f"grids of different shape: {first.shape} and {second.shape}")
    return affine_displacement(first.affine, second.affine, first.shape)


def reorient(volume: Volume, orientation: str) -> Volume:
    """Returns the same voxels with the array axes permuted and flipped, so that they point as the three letters say."""
    current = nib.orientations.io_orientation(volume.affine)
    wanted = nib.orientations.axcodes2ornt(tuple(orientation))
    return turned(volume, nib.orientations.ornt_transform(current, wanted))


def turned(volume: Volume, transform: NDArray[np.float64]) -> Volume:
    """Returns the same voxels with the array axes permuted and flipped by an orientation transform of nibabel."""
    array = np.ascontiguousarray(nib.orientations.apply_orientation(volume.array, transform))
    return Volume(array, volume.affine @ nib.orientations.inv_ornt_aff(transform, volume.shape))


def turned_like(volume: Volume, reference: Volume) -> Volume:
    """Returns the same voxels with the array axes permuted and flipped to run along those of a reference.

    The volume itself is returned where they do. Axes are compared with each other and not with the patient's, so that
    rounding does not matter for two oblique grids.
    """
    axes = nib.orientations.io_orientation(np.linalg.inv(reference.affine) @ volume.affine)
    return volume if (axes == [[0, 1], [1, 1], [2, 1]]).all() else turned(volume, axes)


def snap(volume: Volume, reference: Volume) -> Volume:
    """Puts a volume that lies almost on the grid of another onto exactly that grid; no voxel value changes.

    Axes that are stored in another order or direction are turned first. What remains may be a displacement of at most
    `SNAP_TOLERANCE` of the smallest spacing, as it comes from rounding in headers.

    Raises:
        ValueError: the shapes differ, or a corner lies farther away than that.
    """
    turned = turned_like(volume, reference)
    if turned.shape != reference.shape:
        raise ValueError(f"the grids have the shapes {turned.shape} and {reference.shape}")
    displacement = corner_displacement(turned, reference)
    allowed = SNAP_TOLERANCE * float(min(turned.spacing.min(), reference.spacing.min()))
    if displacement > allowed:
        raise ValueError(
            f"the grids are {displacement:.3g} mm apart, more than the {allowed:.3g} mm that count as rounding"
        )
    return Volume(turned.array, reference.affine)
