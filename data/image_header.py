"""What an image file claims about itself, and how a file is turned down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

# 2048³ / 4: far above any clinical scan (a 1024 × 1024 × 2000 CT), and still 8 GB as float32.
LARGEST_VOXELS = 2**31
# Deflate cannot pack better than about 1032:1, so a header that claims more than that is wrong.
LARGEST_RATIO = 1100
AGAIN = "copy or export the file again"

_MM_PER_UNIT = {"micron": 1e-3, "meter": 1e3}
# Distances between voxel centres that a clinical or small-animal scanner can have, in mm.
SMALLEST_SPACING, LARGEST_SPACING = 0.02, 50.0


@dataclass(frozen=True)
class ImageHeader:
    """What a file claims about itself, read without its voxels.

    Attributes:
        shape: all dimensions, a fourth one for frames or channels included.
        affine: `[4, 4]`, voxel indices to RAS+ mm.
        dtype: how the voxels are stored.
        unit: the spatial unit that the file declares: `mm`, `micron`, `meter` or `unknown`.
        unit_ignored: whether the declared unit would make an impossible spacing, so that mm are assumed.
        sform: `[4, 4]` affine of the sform in mm, if the NIfTI file has one.
        qform: `[4, 4]` affine of the qform in mm, if the NIfTI file has one.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype
    unit: str = "mm"
    unit_ignored: bool = False
    sform: NDArray[np.float64] | None = None
    qform: NDArray[np.float64] | None = None

    @property
    def volume_shape(self) -> tuple[int, ...]:
        """The shape without trailing dimensions of length one beyond the third."""
        shape = self.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        return shape

    @property
    def spacing(self) -> NDArray[np.float64]:
        """`[3]` distance in mm between voxel centres along each array axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def affine_fault(self) -> str:
        """What makes the affine useless, or an empty string."""
        if not np.isfinite(self.affine).all():
            return "its affine holds NaN or Inf"
        # Relative to the spacing, so that neither small nor large voxels count as degenerate.
        volume, box = abs(np.linalg.det(self.affine[:3, :3])), np.prod(self.spacing)
        if box == 0 or volume / box < 1e-3:
            return "its affine cannot be inverted"
        return ""


def format_shape(shape: tuple[int, ...]) -> str:
    """Returns e.g. `64×64×30`."""
    return "×".join(str(n) for n in shape)


def refuse(path: Path, found: str, expected: str, fix: str) -> DataError:
    """Returns the error that turns a file down; `found` continues the path."""
    return DataError(f"{path}: {found}", expected=expected, fix=fix)


def check_claim(path: Path, shape: tuple[int, ...], itemsize: int, available: int) -> None:
    """Compares what a header claims with the bytes there can be, before anything is allocated.

    Args:
        path: the file, for the message.
        shape: the claimed shape.
        itemsize: bytes per voxel.
        available: an upper bound on the bytes of voxels that the file can hold.

    Raises:
        DataError: it claims more than that, or a size that no scan has.
    """
    if any(n < 1 for n in shape):
        raise refuse(
            path, f"its header claims {format_shape(shape)} voxels", "one voxel or more along each axis", AGAIN
        )
    voxels = 1
    for n in shape:
        voxels *= n
    if voxels * itemsize > available:
        raise refuse(
            path,
            f"its header claims {format_shape(shape)} voxels ({voxels * itemsize:,} bytes), the file holds "
            f"at most {available:,} bytes: the header is wrong or the file is truncated",
            "a header that agrees with the data",
            AGAIN,
        )
    if voxels > LARGEST_VOXELS:
        raise refuse(
            path, f"has {format_shape(shape)} voxels", f"at most {LARGEST_VOXELS:,}", "crop or resample it before"
        )


def unit_in_mm(unit: str, spacing: NDArray[np.float64]) -> tuple[float, bool]:
    """Returns mm per unit, and whether the declared unit was ignored because no scanner has such a spacing.

    Small-animal files in µm declare it rightly; many others carry a wrong unit code and have their spacing in mm.
    """
    factor = _MM_PER_UNIT.get(unit, 1.0)
    plausible = bool(np.all((spacing * factor >= SMALLEST_SPACING) & (spacing * factor <= LARGEST_SPACING)))
    return (factor, False) if factor == 1.0 or plausible else (1.0, True)
