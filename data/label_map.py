"""What the values of label maps and brain masks mean: one rule for checks, preprocessing, prediction and evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.volume import Volume

LARGEST_LABEL = int(np.iinfo(np.int16).max)
# Masks stored with a scale factor come back slightly off the whole numbers that they stand for.
_WHOLE = 1e-3
# SPM stores labels up to k in a byte as steps of k/255, so a label comes back up to half a step off.
_COARSEST_STEP = 0.05
_HALF = 0.501
_BRAIN = 0.5
_SHOWN = 8


def shown_values(values: NDArray) -> str:
    """Returns the first values as text, and how many more there are."""
    text = ", ".join(f"{value:g}" for value in values[:_SHOWN])
    return text + (f" and {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else "")


def as_label_map(volume: Volume, name: str, step: float = 0.0) -> Volume:
    """Returns a label map as int16; a value within 0.001, or half a step, of a whole number is that number.

    Args:
        volume: the values as they were stored, with scale factors applied.
        name: what it is, for the message.
        step: distance between neighbouring values that the file can hold; coarse steps are ignored.

    Raises:
        DataError: a value is NaN, infinite, not a whole number, negative or above 32767.
    """
    array = volume.array
    if array.dtype.kind == "f":
        array = _whole(array, name, max(_WHOLE, _HALF * step if step <= _COARSEST_STEP else 0.0))
    low, high = array.min(), array.max()
    if low < 0 or high > LARGEST_LABEL:
        raise DataError(
            f"{name}: has label values from {low:g} to {high:g}",
            expected=f"values from 0 to {LARGEST_LABEL}",
            fix="renumber the labels",
        )
    return volume.with_array(np.require(array, np.int16, ["C", "W"]))


def _whole(array: NDArray, name: str, tolerance: float) -> NDArray:
    _require_finite(array, name)
    rounded = np.rint(array)
    off = np.abs(array - rounded) > tolerance
    if off.any():
        raise DataError(
            f"{name}: has label values that are not whole numbers: {shown_values(np.unique(array[off]))}",
            expected="whole numbers",
            fix="resample labels with nearest neighbours, and export the label again",
        )
    return rounded


def above_half(volume: Volume) -> NDArray[np.uint8]:
    """Returns 1 where a mask is above one half, else 0."""
    return (volume.array > _BRAIN).astype(np.uint8)


def as_brain_mask(volume: Volume, name: str) -> Volume:
    """Returns a brain mask as uint8: what is above 0.5 is brain.

    So a soft mask of probabilities is cut at one half, and in a mask of whole numbers (0 and 1, 0 and 255, several
    regions) everything but 0 is brain.

    Raises:
        DataError: a value is NaN or infinite, or all voxels or none are brain.
    """
    if volume.array.dtype.kind == "f":
        _require_finite(volume.array, name)
    brain = above_half(volume)
    if brain.all() or not brain.any():
        low, high = volume.array.min(), volume.array.max()
        found = f"every voxel is {low:g}" if low == high else f"its values run from {low:g} to {high:g}"
        raise DataError(
            f"{name}: {found}, so {'all' if brain.all() else 'no'} voxels are brain",
            expected=f"values above {_BRAIN:g} in the brain, and lower ones around it",
            fix="make the mask again, or remove it",
        )
    return volume.with_array(brain)


def _require_finite(array: NDArray, name: str) -> None:
    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise DataError(
            f"{name}: {bad:,} of {array.size:,} voxels are NaN or infinite",
            expected="finite values",
            fix="find out where they come from; if they stand for the background, replace them with 0",
        )
