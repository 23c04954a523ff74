"""All metrics of one predicted label map against its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.metrics import EmptyMaskPolicy, count_voxels, dice, iou
from pipeline.evaluation.surface_distance import surface_metrics
from pipeline.evaluation.tables import CaseRow


@dataclass(frozen=True)
class Trained:
    """Which trained arm made a prediction: preset name, number of target patients, repeat."""

    arm: str
    n: int
    repeat: int


def evaluate_case(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    labels: Mapping[str, int],
    spacing: tuple[float, float, float],
    *,
    trained: Trained,
    case: str,
    patient: str,
    policy: EmptyMaskPolicy = EmptyMaskPolicy.REWARD_AGREEMENT,
    tolerance: float = 2.0,
) -> list[CaseRow]:
    """Measures every label of a case.

    Args:
        prediction: `[X, Y, Z]` label map.
        reference: `[X, Y, Z]` label map of the same grid.
        labels: name of each foreground structure → its value in both maps.
        spacing: mm between voxel centres along each axis.
        trained: which trained arm made the prediction.
        case: name of the case.
        patient: whose case it is.
        policy: what empty masks give.
        tolerance: mm, of the surface Dice.

    Returns:
        One row per label, in the order of `labels`.

    Raises:
        ValueError: the maps are of different shape.
    """
    millilitres = float(np.prod(spacing)) / 1000
    rows = []
    for name, value in labels.items():
        predicted, truth = prediction == value, reference == value
        counts = count_voxels(predicted, truth)
        distances = surface_metrics(predicted, truth, spacing, tolerance=tolerance, policy=policy)
        rows.append(
            CaseRow(
                arm=trained.arm,
                n=trained.n,
                repeat=trained.repeat,
                case=case,
                patient=patient,
                label=name,
                dice=dice(counts, policy),
                iou=iou(counts, policy),
                tp=counts.true_positive,
                fp=counts.false_positive,
                fn=counts.false_negative,
                empty=counts.empty.value,
                hd95=distances.hd95,
                average_surface_distance=distances.average_surface_distance,
                surface_dice=distances.surface_dice,
                reference_ml=counts.reference * millilitres,
                predicted_ml=counts.predicted * millilitres,
            )
        )
    return rows
