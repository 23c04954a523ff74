"""Empty borders of a scan: padding with one value, and wide fields of air that hold nothing but noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, slice, slice]
"""Ranges of voxel indices along the three axes."""

_EVEN = 1e-3
"""Deviation from a border's value that still counts as even, as a share of the range of the values."""
_NOISE = 5.0
"""Deviation that still counts as noise, in robust standard deviations of the border."""
_DARK = 0.15
"""Share of the highest value below which the noise of air lies; tissue is brighter."""
_BLOCK_MM = 4.0
"""Size of the blocks over which noise is averaged."""
_VOXELS = 200_000
"""Number of voxels that suffices to estimate the range of the values."""

_Tolerance = Callable[[NDArray, float, float], float]
"""Face, lowest and highest value of the scan → deviation from the face's median that counts as border."""


def outer_faces(array: NDArray) -> list[NDArray]:
    """Returns the six faces of `[X, Y, Z]`."""
    return [array[0], array[-1], array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1]]


def even_box(array: NDArray) -> Box:
    """Returns the part of a scan `[X, Y, Z]` without borders of one value, such as those of a head padded to a cube.

    Planes are removed from each face as long as they hold the value of that face, whatever it is; stray voxels are
    ignored. So a scan gives the same part however far it was padded. One that is nothing but border is returned whole.
    """
    return _inner(array, lambda face, low, high: _EVEN * (high - low))


def content_box(array: NDArray, spacing: Sequence[float] | NDArray[np.float64], margin: float = 10.0) -> Box:
    """Returns the part of a scan without even borders and without borders that hold nothing but the noise of air.

    Args:
        array: `[X, Y, Z]`, a scan of any contrast.
        spacing: of its voxels, mm.
        margin: room in mm that is kept around what is not noise; even borders are removed without a margin.
    """
    even = even_box(array)
    inner = array[even]
    steps = np.maximum(1, np.rint(_BLOCK_MM / np.asarray(spacing))).astype(int)
    room = np.ceil(margin / np.asarray(spacing)).astype(int)
    ends = []
    for outer, coarse, step, m in zip(even, _inner(_block_means(inner, steps), _noise), steps, room, strict=True):
        start = max(outer.start, outer.start + int(coarse.start * step) - int(m))
        ends.append(slice(start, min(outer.stop, outer.start + int(coarse.stop * step) + int(m))))
    return ends[0], ends[1], ends[2]


def _noise(face: NDArray, low: float, high: float) -> float:
    """Returns how far the noise of a face reaches, if it is the noise of air, which lies near 0.

    Where values lie far below 0, as in CT, 0 does not stand for air, and dark tissue cannot be told from noise.
    """
    middle = float(np.median(face))
    spread = _NOISE * 1.4826 * float(np.median(np.abs(face - middle)))
    air = low >= -_DARK * high and middle + spread <= _DARK * high
    return max(spread if air else 0.0, _EVEN * (high - low))


# Borders of infinite values stay; the checks report them.
@np.errstate(invalid="ignore", over="ignore")
def _inner(array: NDArray, tolerance: _Tolerance) -> Box:
    """Removes planes from the six faces as long as they resemble the face."""
    box = [slice(0, n) for n in array.shape]
    while True:
        before = list(box)
        inner = array[tuple(box)]
        # Within a narrower box, the content is a larger share of the values.
        flat = inner.ravel()
        low, high = (float(v) for v in np.percentile(flat[:: max(1, flat.size // _VOXELS)], [0.1, 99.9]))
        for axis in range(3):
            planes = np.moveaxis(array[tuple(box)], axis, 0)
            first = _border_planes(planes, tolerance(planes[0], low, high))
            last = _border_planes(planes[::-1], tolerance(planes[-1], low, high))
            if first + last >= len(planes):
                x, y, z = (slice(0, n) for n in array.shape)
                return x, y, z
            box[axis] = slice(box[axis].start + first, box[axis].stop - last)
        if box == before:
            return box[0], box[1], box[2]


def _border_planes(planes: NDArray, tolerance: float) -> int:
    """Counts the leading planes that resemble the first one, apart from stray voxels."""
    value = np.median(planes[0])
    for number, plane in enumerate(planes):
        # A voxel together with its four neighbours is not stray. So the size of a plane does not matter.
        if ndimage.binary_erosion(np.abs(plane - value) > tolerance, border_value=1).any():
            return number
    return len(planes)


def _block_means(array: NDArray, steps: NDArray[np.int_]) -> NDArray[np.float32]:
    """Averages blocks of `steps` voxels along each axis; the last ones may be smaller."""
    means = array.astype(np.float32, copy=False)
    for axis, step in enumerate(steps.tolist()):
        starts = np.arange(0, array.shape[axis], step)
        counts = np.diff(np.append(starts, array.shape[axis])).astype(np.float32)
        means = np.add.reduceat(means, starts, axis=axis)
        means /= counts.reshape([-1 if a == axis else 1 for a in range(3)])
    return means
