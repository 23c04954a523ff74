"""Metrics of segmentations, with a stated policy for empty masks: those of `graft evaluate`.

Masks are boolean arrays `[X, Y, Z]`, volumes or nibabel images (what is not 0 is inside). Distances need the spacing,
which volumes and images bring along. What an empty mask gives is the policy: `reward_agreement` (both empty: the best
value; the default), `skip_agreement` (both empty: NaN) or `skip_empty_reference` (reference empty: NaN). A structure
that is present and was missed has the worst value under each: 0, or the diagonal of the image in mm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from pydantic import ValidationError

from data.errors import ConfigError, DataError
from data.option_faults import fault_at
from data.volume import Volume, snap
from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.case_row import METRICS, LesionMetric
from pipeline.evaluation.options import EvaluationOptions
from pipeline.metrics.mask_pair import MaskPair
from pipeline.metrics.overlap import EmptyMaskPolicy
from pipeline.metrics.surface_distance import TOLERANCE

__all__ = ["average_surface_distance", "dice", "hd95", "iou", "measure", "relative_volume_error", "surface_dice"]

Mask: TypeAlias = NDArray[Any] | Volume | SpatialImage
Spacing: TypeAlias = Sequence[float] | None


def dice(prediction: Mask, reference: Mask, *, empty: str = "reward_agreement") -> float:
    """Returns the Dice similarity coefficient, in [0, 1], or NaN by policy.

    Args:
        prediction: mask.
        reference: mask on the same grid.
        empty: policy for empty masks.

    Raises:
        DataError: the masks lie on different grids.
        ConfigError: the policy is unknown.
    """
    return _of_voxels("dice", prediction, reference, empty)


def iou(prediction: Mask, reference: Mask, *, empty: str = "reward_agreement") -> float:
    """Returns the intersection over union (Jaccard index), in [0, 1], or NaN by policy; arguments as for `dice`."""
    return _of_voxels("iou", prediction, reference, empty)


def relative_volume_error(prediction: Mask, reference: Mask, *, empty: str = "reward_agreement") -> float:
    """Returns |predicted − reference| / reference of the volumes, or NaN by policy; arguments as for `dice`."""
    return _of_voxels("relative_volume_error", prediction, reference, empty)


def hd95(prediction: Mask, reference: Mask, spacing: Spacing = None, *, empty: str = "reward_agreement") -> float:
    """Returns the 95th percentile Hausdorff distance in mm: the larger of the two directed percentiles.

    Args:
        prediction: mask.
        reference: mask on the same grid.
        spacing: mm between voxel centres along each axis; volumes and images bring it along.
        empty: policy for empty masks.

    Raises:
        DataError: the masks lie on different grids, or arrays came without a spacing.
        ConfigError: the policy is unknown.
    """
    return _of_surfaces("hd95", prediction, reference, spacing, empty)


def average_surface_distance(
    prediction: Mask, reference: Mask, spacing: Spacing = None, *, empty: str = "reward_agreement"
) -> float:
    """Returns the mean distance in mm over the surface voxels of both masks (symmetric); arguments as for `hd95`."""
    return _of_surfaces("average_surface_distance", prediction, reference, spacing, empty)


def surface_dice(
    prediction: Mask,
    reference: Mask,
    spacing: Spacing = None,
    *,
    tolerance: float = TOLERANCE,
    empty: str = "reward_agreement",
) -> float:
    """Returns the normalised surface Dice (NSD): the share of both surfaces within `tolerance` mm of the other.

    The other arguments are those of `hd95`.
    """
    return _of_surfaces("surface_dice", prediction, reference, spacing, empty, tolerance)


def measure(
    prediction: Mask,
    reference: Mask,
    labels: Mapping[str, int],
    spacing: Spacing = None,
    *,
    tolerance: float = TOLERANCE,
    empty: str = "reward_agreement",
    lesions: bool | Mapping[str, Any] = False,
) -> dict[str, dict[str, float]]:
    """Computes every metric of every structure of two label maps.

    Args:
        prediction: label map.
        reference: label map on the same grid.
        labels: name → value in both.
        spacing: mm between voxel centres; volumes and images bring it along.
        tolerance: of the surface Dice, in mm.
        empty: policy for empty masks.
        lesions: whether to add lesion-wise sensitivity, precision and F1; a mapping says what a lesion is, as under
            `evaluation.lesions` in a configuration.

    Returns:
        structure → metric → value; NaN where the policy leaves it out.

    Raises:
        DataError: the maps lie on different grids, or arrays came without a spacing.
        ConfigError: the policy or an option is unknown.
    """
    first, second = _arrays(prediction, reference)
    x, y, z = _spacing(prediction, reference, spacing)
    chosen = None if lesions is False else {} if lesions is True else dict(lesions)
    try:
        options = EvaluationOptions.model_validate(
            {"empty_masks": _policy(empty), "surface_tolerance": tolerance, "lesions": chosen}
        )
    except ValidationError as error:
        raise ConfigError(f"measure: {fault_at(error)}", fix="see docs/reference/config.md") from error
    rows = evaluate_case(
        first, second, labels, (x, y, z), trained=TrainedArm("", 0, 0), case="", patient="", options=options
    )
    wanted = [name for name, own in METRICS.items() if chosen is not None or not isinstance(own, LesionMetric)]
    wanted += ["reference_ml", "predicted_ml"]
    return {row.label: {name: float(getattr(row, name)) for name in wanted} for row in rows}


def _of_surfaces(
    name: str, prediction: Mask, reference: Mask, spacing: Spacing, empty: str, tolerance: float = TOLERANCE
) -> float:
    first, second = _arrays(prediction, reference)
    pair = MaskPair(first != 0, second != 0, _spacing(prediction, reference, spacing), tolerance)
    return METRICS[name].of(pair, _policy(empty))


def _of_voxels(name: str, prediction: Mask, reference: Mask, empty: str) -> float:
    first, second = _arrays(prediction, reference)
    # The size of a voxel cancels out.
    return METRICS[name].of(MaskPair(first != 0, second != 0, (1.0, 1.0, 1.0)), _policy(empty))


def _policy(name: str) -> EmptyMaskPolicy:
    if name not in set(EmptyMaskPolicy):
        raise ConfigError(
            f"the policy {name!r} for empty masks is unknown",
            expected=f"one of {', '.join(EmptyMaskPolicy)}",
            fix="name one of these",
        )
    return EmptyMaskPolicy(name)


def _volume(mask: Mask) -> Volume | None:
    """The mask with its place in the world, if it has one."""
    if isinstance(mask, SpatialImage):
        return Volume(np.asarray(mask.dataobj), np.asarray(mask.affine))
    return mask if isinstance(mask, Volume) else None


def _arrays(prediction: Mask, reference: Mask) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays of one grid."""
    first, second = _volume(prediction), _volume(reference)
    if first is not None and second is not None:
        try:
            return snap(first, second).array, second.array
        except ValueError as error:
            raise DataError(
                f"prediction and reference lie on different grids: {error}",
                expected="one grid",
                fix="resample one of them to the grid of the other",
            ) from error
    arrays: list[NDArray[Any]] = [
        np.asarray(mask) if volume is None else volume.array
        for mask, volume in ((prediction, first), (reference, second))
    ]
    if arrays[0].shape != arrays[1].shape or arrays[0].ndim != 3:
        raise DataError(
            f"the prediction has the shape {arrays[0].shape}, the reference {arrays[1].shape}",
            expected="one shape of three axes",
            fix="resample one of them to the grid of the other",
        )
    return arrays[0], arrays[1]


def _spacing(prediction: Mask, reference: Mask, spacing: Spacing) -> tuple[float, float, float]:
    placed = _volume(reference) or _volume(prediction)
    if spacing is None and placed is not None:
        spacing = placed.spacing.tolist()
    if spacing is None:
        raise DataError(
            "distances and volumes of arrays need the size of their voxels",
            expected="mm along each axis",
            fix="add `spacing=(1.0, 1.0, 1.0)`, or give volumes",
        )
    steps = [float(step) for step in spacing]
    if len(steps) != 3 or min(steps) <= 0:
        raise DataError(f"the spacing is {steps}", expected="three numbers of mm above 0", fix="correct it")
    return steps[0], steps[1], steps[2]
