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

from pipeline.evaluation.metrics import EmptyMaskPolicy, Mask, Policies, count_voxels, policy_of, value_of_empty


@dataclass(frozen=True)
class SurfaceMetrics:
    """Surface metrics of one mask; NaN where the policy leaves an empty mask out.

    Attributes:
        hd95: the larger of the two directed 95th percentiles of surface distance, in mm.
        average_surface_distance: mean over the surface voxels of both masks together, in mm (symmetric, ASSD).
        surface_dice: share of both surfaces within the tolerance of the other (Nikolov et al., 2018), in [0, 1].
    """

    hd95: float
    average_surface_distance: float
    surface_dice: float


def surface(mask: Mask) -> Mask:
    """Returns the voxels of `[X, Y, Z]` that have one of their six face neighbours outside the mask."""
    return mask & ~ndimage.binary_erosion(mask, border_value=0)


def directed_surface_distances(
    prediction: Mask, reference: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measures every surface voxel's distance to the other surface.

    Args:
        prediction: boolean `[X, Y, Z]`, not empty.
        reference: boolean `[X, Y, Z]`, not empty.
        spacing: mm between voxel centres along each axis.

    Returns:
        Distances in mm from the prediction's surface to the reference's, and from the reference's to the prediction's.

    Raises:
        ValueError: a mask is empty.
    """
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))
    if not prediction.any() or not reference.any():
        raise ValueError("an empty mask has no surface")
    prediction_surface, reference_surface = surface(prediction[box[0]]), surface(reference[box[0]])
    to_reference = ndimage.distance_transform_edt(~reference_surface, sampling=spacing)
    to_prediction = ndimage.distance_transform_edt(~prediction_surface, sampling=spacing)
    return to_reference[prediction_surface], to_prediction[reference_surface]


def image_diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Returns the distance in mm between opposite corner voxels: the longest distance two masks can have."""
    return float(np.linalg.norm((np.asarray(shape) - 1) * np.asarray(spacing)))


def surface_metrics(
    prediction: Mask,
    reference: Mask,
    spacing: Sequence[float],
    *,
    tolerance: float = 2.0,
    policy: Policies = EmptyMaskPolicy.REWARD_AGREEMENT,
) -> SurfaceMetrics:
    """Computes HD95, average surface distance and normalised surface Dice of one mask.

    Args:
        prediction: boolean `[X, Y, Z]`.
        reference: boolean `[X, Y, Z]`.
        spacing: mm between voxel centres along each axis.
        tolerance: mm within which two surfaces count as equal for the surface Dice.
        policy: what empty masks give, for all metrics or by name; the worst distance is the diagonal of the image.

    Returns:
        The three metrics.

    Raises:
        ValueError: the shapes differ, a mask is not boolean, or the spacing is not three positive numbers.
    """
    if len(spacing) != prediction.ndim or min(spacing) <= 0:
        raise ValueError(f"spacing is a positive number of mm for each of {prediction.ndim} axes, not {spacing}")
    counts = count_voxels(prediction, reference)
    if not counts.reference or not counts.predicted:
        diagonal = image_diagonal(prediction.shape, spacing)
        return SurfaceMetrics(
            value_of_empty(counts.empty, policy_of(policy, "hd95"), best=0.0, worst=diagonal),
            value_of_empty(counts.empty, policy_of(policy, "average_surface_distance"), best=0.0, worst=diagonal),
            value_of_empty(counts.empty, policy_of(policy, "surface_dice"), best=1.0, worst=0.0),
        )
    forth, back = directed_surface_distances(prediction, reference, spacing)
    both = np.concatenate([forth, back])
    return SurfaceMetrics(
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        average_surface_distance=float(both.mean()),
        surface_dice=float(np.mean(both <= tolerance)),
    )
