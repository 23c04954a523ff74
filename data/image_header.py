"""What an image file claims about itself, and the errors that refuse a file."""

from __future__ import annotations

import math
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

# What a scan can span along an axis, in mm: from a biopsy to a whole body with room to spare.
_LEAST_EXTENT, _LARGEST_EXTENT = 0.1, 5000.0
LEAST_VOXELS = 2
"""Fewer voxels along an axis do not make a volume: there is nothing to interpolate, smooth or filter along it."""


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
        qform: `[4, 4]` affine of the qform in mm, if the NIfTI file has one that is valid.
        unplaced: what the file lacks to define right and left, as a sentence; empty if nothing.
        ignored_bytes: meaningless bytes after the voxels; known once the voxels were read.
        step: distance between neighbouring values that the voxels can have, where integers are scaled; else 0.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype
    unit: str = "mm"
    unit_ignored: bool = False
    sform: NDArray[np.float64] | None = None
    qform: NDArray[np.float64] | None = None
    unplaced: str = ""
    ignored_bytes: int = 0
    step: float = 0.0

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


def thinness(shape: tuple[int, ...]) -> str:
    """Returns what makes a volume `[X, Y, Z]` a single slice, or an empty string."""
    return "" if min(shape[:3]) >= LEAST_VOXELS else f"has the shape {format_shape(shape)}, a single slice"


def impossible_extent(shape: tuple[int, ...], spacing: NDArray[np.float64]) -> str:
    """Returns what makes a spacing impossible for a volume `[X, Y, Z]`, or an empty string."""
    extent = np.array(shape[:3]) * spacing
    if extent.min() >= _LEAST_EXTENT and extent.max() <= _LARGEST_EXTENT:
        return ""
    own, whole = (" × ".join(f"{s:.4g}" for s in sizes) for sizes in (spacing, extent))
    return f"has a spacing of {own} mm, which makes it {whole} mm large"


def refuse(path: Path, found: str, expected: str, fix: str) -> DataError:
    """Returns the error that refuses a file; `found` follows the path."""
    return DataError(f"{path}: {found}", expected=expected, fix=fix)


def damaged(path: Path, error: Exception) -> DataError:
    """Returns the error of a file whose voxels are not those that were written."""
    return refuse(path, f"is truncated or damaged ({error})", "a whole file", AGAIN)


def no_grey_values(path: Path, what: str) -> DataError:
    """Returns the error of a file whose voxels are not one number each."""
    return refuse(path, f"holds {what}", "one number per voxel", "export it as a grey-value or label volume")


def require_numbers(path: Path, dtype: np.dtype) -> None:
    """Refuses voxels that are not one number each.

    Raises:
        DataError: they are colours, complex numbers or something else.
    """
    if dtype.names is not None:
        raise no_grey_values(path, "colours")
    if dtype.kind == "c":
        raise no_grey_values(path, "complex numbers")
    if dtype.kind not in "iuf":
        raise no_grey_values(path, f"voxels of the type {dtype}")


def chosen_frame(path: Path, array: NDArray, frame: int | None) -> NDArray:
    """Returns one frame of `[X, Y, Z]` or `[X, Y, Z, frames]`, or everything for `None` and for other dimensions.

    Raises:
        DataError: there is no such frame.
    """
    if frame is None or array.ndim not in (3, 4):
        return array
    frames = array.shape[3] if array.ndim == 4 else 1
    if not 0 <= frame < frames:
        found = f"has {frames} channel{'s' if frames > 1 else ''}"
        raise refuse(path, found, f"a channel number {frame}", "correct the dataset's channels")
    return array[..., frame] if array.ndim == 4 else array


def check_claim(path: Path, shape: tuple[int, ...], itemsize: int, available: int) -> None:
    """Compares what a header claims with the bytes there can be, before anything is allocated.

    Raises:
        DataError: it claims more than that, or a size that no scan has.
    """
    if any(n < 1 for n in shape):
        raise refuse(
            path, f"its header claims {format_shape(shape)} voxels", "one voxel or more along each axis", AGAIN
        )
    voxels = math.prod(shape)
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
            path, f"has {format_shape(shape)} voxels", f"at most {LARGEST_VOXELS:,}", "crop or resample it first"
        )


def unit_in_mm(unit: str, spacing: NDArray[np.float64]) -> tuple[float, bool]:
    """Returns mm per unit, and whether the declared unit was ignored because no scanner has such a spacing.

    Small-animal files in µm declare it correctly; many others carry a wrong unit code and have their spacing in mm.
    """
    factor = _MM_PER_UNIT.get(unit, 1.0)
    plausible = bool(np.all((spacing * factor >= SMALLEST_SPACING) & (spacing * factor <= LARGEST_SPACING)))
    return (factor, False) if factor == 1.0 or plausible else (1.0, True)
