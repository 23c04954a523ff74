"""Distances in mm between the surfaces of two masks on an anisotropic grid.

The surface of a mask is the set of its voxels with a face neighbour outside it (outside the image counts as outside),
as in MONAI and MedPy; distances are between voxel centres. Surface voxels count equally, whatever the area of their
faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.metrics.overlap import EmptyMask, Mask, count_voxels

TOLERANCE = 2.0
"""mm within which two surfaces count as equal for the surface Dice, where nothing else is asked for."""


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between the surfaces of two masks.

    Attributes:
        to_reference: mm from every surface voxel of the prediction to the reference's surface, infinite without one.
        to_prediction: mm from every surface voxel of the reference to the prediction's surface, infinite without one.
        longest: mm between opposite corner voxels of the image: what stands for an infinite distance.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]
    longest: float

    @property
    def both(self) -> NDArray[np.float64]:
        """Distances of the voxels of both surfaces."""
        return np.concatenate([self.to_reference, self.to_prediction])


def hd95(distances: SurfaceDistances) -> float:
    """Returns the larger of the two directed 95th percentiles in mm; 0 where both masks are empty."""
    directed = [distances.to_reference, distances.to_prediction]
    return max((float(np.percentile(np.minimum(d, distances.longest), 95)) for d in directed if d.size), default=0.0)


def average_surface_distance(distances: SurfaceDistances) -> float:
    """Returns the mean over the surface voxels of both masks together, in mm (symmetric, ASSD); 0 without any."""
    both = distances.both
    return float(np.minimum(both, distances.longest).mean()) if both.size else 0.0


def surface_dice(distances: SurfaceDistances, tolerance: float) -> float:
    """Returns the share of both surfaces within `tolerance` mm of the other (Nikolov et al., 2018); 1 without any."""
    both = distances.both
    return float(np.mean(both <= tolerance)) if both.size else 1.0


def surface(mask: Mask) -> Mask:
    """Returns the voxels of `[X, Y, Z]` that have one of their six face neighbours outside the mask."""
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def surface_distances(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> SurfaceDistances:
    """Measures every surface voxel's distance to the other surface.

    Args:
        prediction: boolean `[X, Y, Z]`.
        reference: boolean `[X, Y, Z]`.
        spacing: mm between voxel centres along each axis.

    Returns:
        The distances; none where both masks are empty.

    Raises:
        ValueError: the shapes differ, a mask is not boolean, or the spacing is not three positive numbers.
    """
    if len(spacing) != prediction.ndim or min(spacing) <= 0:
        raise ValueError(f"spacing is a positive number of mm for each of {prediction.ndim} axes, not {spacing}")
    empty = count_voxels(prediction, reference).empty
    longest = image_diagonal(prediction.shape, spacing)
    if empty is not EmptyMask.NEITHER:
        none, far = np.empty(0), np.array([np.inf])
        return SurfaceDistances(
            far if empty is EmptyMask.REFERENCE else none, far if empty is EmptyMask.PREDICTION else none, longest
        )
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))
    prediction_surface, reference_surface = surface(prediction[box[0]]), surface(reference[box[0]])
    to_reference = ndimage.distance_transform_edt(~reference_surface, sampling=spacing)
    to_prediction = ndimage.distance_transform_edt(~prediction_surface, sampling=spacing)
    return SurfaceDistances(to_reference[prediction_surface], to_prediction[reference_surface], longest)


def image_diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Returns the distance in mm between opposite corner voxels: the longest distance two masks can have."""
    return float(np.linalg.norm((np.asarray(shape) - 1) * np.asarray(spacing)))
