"""Left and right swapped between the channels of a case: does a channel fit the first one better when mirrored?

Both are brought to 4 mm; mutual information (Viola & Wells 1997) is compared after a short search over shifts and
rotations in the axial plane, once as stored and once with the array mirrored left to right. On the seven real heads at
hand, raw and preprocessed, the ratio (mirrored / as stored) lies between 0.83 and 0.98; swapping a channel inverts it.
Crops of a few centimetres hold too few voxels at 4 mm to tell, and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from data.checks.coarse import clipped, coarsen
from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.volume import Volume

_STEP_MM = 4.0
_BINS = 32
_SUSPICIOUS_RATIO = 1.05
_SMALLEST_GRID = 8000
_SMALLEST_OVERLAP = 0.4
# Heads turn from left to right between two series, which an asymmetry test has to allow for.
_STEP_DEGREES = 5.0
_MOVES = [tuple(int(sign) * (axis == i) for i in range(4)) for axis in range(4) for sign in (1, -1)]

Placement = tuple[int, int, int, int]  # Steps to the right, to the front, upwards, and of rotation in the axial plane.


def mutual_information(first: NDArray, second: NDArray) -> float:
    """Returns the mutual information in nats of two arrays of values from 0 to 1, from a histogram of 32 × 32 bins."""
    bins = [np.minimum((values * _BINS).astype(np.int64), _BINS - 1) for values in (first, second)]
    joint = np.bincount(bins[0] * _BINS + bins[1], minlength=_BINS**2).reshape(_BINS, _BINS) / first.size
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    filled = joint > 0
    return float((joint[filled] * np.log(joint[filled] / independent[filled])).sum())


def _similarity(fixed: Volume, moving: Volume, placement: Placement) -> float:
    centre = (fixed.affine @ [*((np.array(fixed.shape) - 1) / 2), 1.0])[:3]
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("z", placement[3] * _STEP_DEGREES, degrees=True).as_matrix()
    move[:3, 3] = centre - move[:3, :3] @ centre + np.array(placement[:3]) * _STEP_MM
    index = np.linalg.inv(move @ moving.affine) @ fixed.affine
    values = affine_transform(moving.array, index[:3, :3], index[:3, 3], fixed.shape, order=1, cval=np.nan)
    inside = np.isfinite(values)
    if inside.mean() < _SMALLEST_OVERLAP:
        return 0.0
    return mutual_information(fixed.array[inside], values[inside])


def best_similarity(fixed: Volume, moving: Volume) -> float:
    """Climbs over shifts by 4 mm and rotations by 5° to the nearest maximum of the mutual information."""
    best: Placement = (0, 0, 0, 0)
    known = {best: _similarity(fixed, moving, best)}
    while True:
        x, y, z, turn = best
        neighbours = [(x + dx, y + dy, z + dz, turn + dt) for dx, dy, dz, dt in _MOVES]
        for placement in neighbours:
            if placement not in known:
                known[placement] = _similarity(fixed, moving, placement)
        top = max(neighbours, key=lambda placement: known[placement])
        if known[top] <= known[best]:
            return known[best]
        best = top


def _coarse(volume: Volume) -> Volume:
    coarse = coarsen(volume, _STEP_MM)
    return coarse.with_array(clipped(coarse.array))


def check_mirrored(case: CaseObservation) -> Iterator[Finding]:
    """A channel fits the first one better when left and right are swapped."""
    usable = [(name, v) for name, v in case.images.items() if v.array.min() != v.array.max()]
    if len(usable) < 2:
        return
    (first, image), *others = usable
    fixed = _coarse(image)
    if fixed.array.size < _SMALLEST_GRID:
        return
    for name, volume in others:
        moving = _coarse(volume)
        mirrored = moving.with_array(np.ascontiguousarray(moving.array[::-1]))
        as_stored, flipped = best_similarity(fixed, moving), best_similarity(fixed, mirrored)
        if flipped > _SUSPICIOUS_RATIO * as_stored:
            found = (
                f"{name} fits {first} better with left and right swapped "
                f"(mutual information {flipped:.2f} instead of {as_stored:.2f} nats)"
            )
            fix = "look at both in a viewer that shows orientations; correct the affine or the array of the wrong one"
            yield Finding(Level.WARNING, case.case.name, "mirrored_channel", found, fix)
