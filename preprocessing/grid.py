"""Carrying volumes from one voxel grid to another."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.borders import outer_faces
from data.errors import PreprocessingError
from data.image_header import format_shape
from data.volume import Volume, corners
from preprocessing.step import Interpolation

Shape = tuple[int, int, int]

LARGEST_GRID = 2**29
"""The most voxels of a new grid, 2 GB as float32, unless the scan itself has more."""


def background_value(volume: Volume) -> float:
    """Returns the value around the content: the median of the six outer faces.

    Air is not always 0: a z-scored image has it at −mean/std, a CT at −1024 HU.
    """
    return float(np.median(np.concatenate([face.ravel() for face in outer_faces(volume.array)])))


def isotropic_grid(volume: Volume, spacing: float, margin: float = 0.0) -> tuple[Shape, NDArray[np.float64]]:
    """Returns the world-aligned grid of one spacing in mm that covers a volume and a margin in mm around it.

    Raises:
        PreprocessingError: that grid would be too large.
    """
    half = np.abs(volume.affine[:3, :3]).sum(axis=1) / 2
    points = corners(volume)
    low = points.min(axis=0) - half - margin
    extent = points.max(axis=0) + half + margin - low
    x, y, z = _countable(volume, np.ceil(extent / spacing - 1e-6), np.array([spacing] * 3))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    # The grid is centred on the volume, so that rounding up is shared by both ends.
    affine[:3, 3] = low + extent / 2 - (np.array([x, y, z]) - 1) * spacing / 2
    return (x, y, z), affine


def respaced_grid(volume: Volume, spacing: NDArray[np.float64]) -> tuple[Shape, NDArray[np.float64]]:
    """Returns the grid of another spacing `[3]` in mm with the axes and the field of view of a volume.

    Raises:
        PreprocessingError: that grid would be too large.
    """
    old = volume.spacing
    x, y, z = _countable(volume, np.rint(np.array(volume.shape) * old / spacing), spacing)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] / old * spacing
    centre = volume.affine[:3, :3] @ ((np.array(volume.shape) - 1) / 2) + volume.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array([x, y, z]) - 1) / 2)
    return (x, y, z), affine


def _countable(volume: Volume, counts: NDArray[np.float64], spacing: NDArray[np.float64]) -> Shape:
    """Returns the numbers of voxels of a new grid as integers, one at least along each axis.

    Raises:
        PreprocessingError: there are too many, as with a wrong spacing in a header.
    """
    counts = np.maximum(1, counts)
    if not float(counts.prod()) <= max(LARGEST_GRID, volume.array.size):
        old, new = (" × ".join(f"{s:g}" for s in sizes) for sizes in (volume.spacing, spacing))
        raise PreprocessingError(
            f"{format_shape(volume.shape)} voxels of {old} mm would become {'×'.join(f'{n:,.0f}' for n in counts)} "
            f"voxels of {new} mm",
            expected=f"at most {LARGEST_GRID:,} voxels",
            fix="correct the spacing in the scan's header, or preprocess to a larger spacing",
        )
    x, y, z = counts.astype(int).tolist()
    return x, y, z


def resample(
    volume: Volume,
    shape: Shape,
    affine: NDArray[np.float64],
    interpolation: Interpolation,
    fill: float = 0.0,
    antialias: bool = True,
) -> Volume:
    """Samples a volume on another grid.

    Args:
        volume: any affine, shear included; a moved volume is one whose affine was changed.
        shape: the new number of voxels.
        affine: `[4, 4]`, the new voxel indices to RAS+ mm.
        interpolation: `NEAREST` keeps integer labels (largest linear share wins), `LINEAR` gives float32.
        fill: value outside the field of view.
        antialias: with `LINEAR`, smooth before sampling more coarsely than the volume.
    """
    pull = np.linalg.inv(volume.affine) @ affine
    if _is_identity(pull, volume.shape, shape):
        return Volume(volume.array, affine)
    if interpolation is Interpolation.NEAREST:
        return Volume(_resample_labels(volume.array, pull, shape, fill), affine)
    array = volume.array.astype(np.float32, copy=False)
    if antialias:
        array = _smooth_for(array, pull)
    return Volume(_pull(array, pull, shape, fill), affine)


def coarse(volume: Volume, spacing: float, margin: float = 0.0) -> Volume:
    """Returns an image on a world-aligned isotropic grid of a spacing in mm, with a margin in mm of background."""
    shape, affine = isotropic_grid(volume, spacing, margin)
    return resample(volume, shape, affine, Interpolation.LINEAR, fill=background_value(volume))


def _is_identity(pull: NDArray[np.float64], old: Shape, new: Shape, tolerance: float = 1e-3) -> bool:
    if old != new:
        return False
    ends = np.array(np.meshgrid(*[[0, n - 1] for n in new], indexing="ij")).reshape(3, -1)
    moved = pull[:3, :3] @ ends + pull[:3, 3:]
    return bool(np.abs(moved - ends).max() <= tolerance)


def _smooth_for(array: NDArray[np.float32], pull: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian prefilter along each array axis that is sampled more coarsely than it is stored.

    The standard deviation follows Cardoso et al., Scale factor point spread function matching, MICCAI 2015:
    σ² = (k² − 1) / (8 ln 2) voxels² for a step of k voxels, from the FWHM of the two voxel sizes.
    """
    # Length of a unit output step in stored voxels, along the output axis that follows each stored axis most.
    step = np.abs(pull[:3, :3]).max(axis=1)
    variance = np.maximum(0.0, step**2 - 1.0) / (8 * np.log(2))
    sigma = np.sqrt(variance)
    if (sigma < 0.2).all():
        return array
    return ndimage.gaussian_filter(array, sigma, mode="nearest", truncate=3.0)


def _pull(
    array: NDArray, pull: NDArray[np.float64], shape: Shape, fill: float, order: Literal[0, 1] = 1
) -> NDArray[np.float32]:
    # One voxel more on each side: a voxel reaches half its size beyond its centre, and thick slices are thick.
    padded = np.pad(array, 1, mode="edge")
    return ndimage.affine_transform(
        padded, pull[:3, :3], pull[:3, 3] + 1, output_shape=shape, output=np.float32, order=order, cval=fill
    )


def _resample_labels(array: NDArray, pull: NDArray[np.float64], shape: Shape, fill: float) -> NDArray:
    result = np.full(shape, fill, dtype=array.dtype)
    values = np.unique(array)
    if np.issubdtype(array.dtype, np.floating) and len(values) > 256:
        # Not a label map: the nearest voxel's value.
        return _pull(array, pull, shape, fill, order=0).astype(array.dtype)
    best = np.zeros(shape, dtype=np.float32)
    total = np.zeros(shape, dtype=np.float32)
    push = np.asarray(np.linalg.inv(pull), dtype=np.float64)
    for value in values[values != 0]:
        region = array == value
        box, source = _output_box(region, push, shape)
        if box is None or source is None:
            continue
        size = tuple(int(s.stop - s.start) for s in box)
        part = _pull(region[source].astype(np.float32), _translate(pull, source, box), (size[0], size[1], size[2]), 0.0)
        result[box][part > best[box]] = value
        np.maximum(best[box], part, out=best[box])
        total[box] += part
    # The background competes like any label; its share is what the labels leave.
    result[best < 1 - total] = 0
    return result


def _output_box(
    region: NDArray[np.bool_], push: NDArray[np.float64], shape: Shape
) -> tuple[tuple[slice, ...] | None, tuple[slice, ...] | None]:
    """Where in the output a label can appear, and the part of the input (with one voxel around) that it comes from."""
    found = ndimage.find_objects(region.astype(np.int8))
    if not found or found[0] is None:
        return None, None
    source = tuple(slice(max(0, s.start - 2), min(n, s.stop + 2)) for s, n in zip(found[0], region.shape, strict=True))
    ends = np.array(np.meshgrid(*[[s.start - 1, s.stop] for s in source], indexing="ij")).reshape(3, -1)
    moved = push[:3, :3] @ ends + push[:3, 3:]
    low = np.maximum(0, np.floor(moved.min(axis=1)).astype(int))
    high = np.minimum(shape, np.ceil(moved.max(axis=1)).astype(int) + 1)
    if (high <= low).any():
        return None, None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), source


def _translate(pull: NDArray[np.float64], source: tuple[slice, ...], box: tuple[slice, ...]) -> NDArray[np.float64]:
    local = pull.copy()
    start = np.array([s.start for s in box])
    local[:3, 3] = pull[:3, :3] @ start + pull[:3, 3] - np.array([s.start for s in source])
    return local
