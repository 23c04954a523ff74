"""All metrics of one predicted label map against its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.lesions import count_lesions, lesion_metrics
from pipeline.evaluation.metrics import Mask, Policies, count_voxels, dice, iou, relative_volume_error
from pipeline.evaluation.options import EvaluationOptions, LesionOptions
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
    options: EvaluationOptions,
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
        options: policies for empty masks, tolerance of the surface Dice, and what a lesion is.

    Returns:
        One row per label, in the order of `labels`.

    Raises:
        ValueError: the maps are of different shape.
    """
    millilitres = float(np.prod(spacing)) / 1000
    policies = options.policies()
    rows = []
    for name, value in labels.items():
        predicted, truth = prediction == value, reference == value
        counts = count_voxels(predicted, truth)
        distances = surface_metrics(predicted, truth, spacing, tolerance=options.surface_tolerance, policy=policies)
        row = CaseRow(
            arm=trained.arm,
            n=trained.n,
            repeat=trained.repeat,
            case=case,
            patient=patient,
            label=name,
            dice=dice(counts, policies["dice"]),
            iou=iou(counts, policies["iou"]),
            tp=counts.true_positive,
            fp=counts.false_positive,
            fn=counts.false_negative,
            empty=counts.empty.value,
            hd95=distances.hd95,
            average_surface_distance=distances.average_surface_distance,
            surface_dice=distances.surface_dice,
            reference_ml=counts.reference * millilitres,
            predicted_ml=counts.predicted * millilitres,
            relative_volume_error=relative_volume_error(counts, policies["relative_volume_error"]),
        )
        if options.lesions is not None:
            row = _with_lesions(row, predicted, truth, spacing, options.lesions, policies)
        rows.append(row)
    return rows


def _with_lesions(
    row: CaseRow,
    predicted: Mask,
    truth: Mask,
    spacing: tuple[float, float, float],
    chosen: LesionOptions,
    policies: Policies,
) -> CaseRow:
    lesions = count_lesions(
        predicted,
        truth,
        spacing,
        connectivity=chosen.connectivity,
        overlap=chosen.overlap,
        minimum_volume=chosen.minimum_volume,
    )
    found = lesion_metrics(lesions, policies)
    return replace(
        row,
        lesions_reference=lesions.reference,
        lesions_detected=lesions.detected,
        lesions_predicted=lesions.predicted,
        lesions_true=lesions.true,
        lesion_sensitivity=found.sensitivity,
        lesion_precision=found.precision,
        lesion_f1=found.f1,
    )
