"""All metrics of one predicted label map against its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.heads import IGNORED, Heads
from pipeline.evaluation.case_row import METRICS, CaseRow
from pipeline.evaluation.options import EvaluationOptions
from pipeline.metrics.mask_pair import MaskPair


@dataclass(frozen=True)
class TrainedArm:
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
    trained: TrainedArm,
    case: str,
    patient: str,
    options: EvaluationOptions,
    heads: Heads = Heads.EXCLUSIVE,
) -> list[CaseRow]:
    """Measures every label of a case.

    Args:
        prediction: `[X, Y, Z]` label map, codes of `heads`.
        reference: `[X, Y, Z]` label map of the same grid; voxels that it ignores count in no metric.
        labels: name of each foreground structure → its number (with exclusive classes: its value) in both maps.
        spacing: mm between voxel centres along each axis.
        trained: which trained arm made the prediction.
        case: name of the case.
        patient: whose case it is.
        options: policies for empty masks, tolerance of the surface Dice, and what a lesion is.
        heads: what the maps' values stand for.

    Returns:
        One row per label, in the order of `labels`.

    Raises:
        ValueError: the maps are of different shape.
    """
    annotated, voxel_ml = reference != IGNORED, float(np.prod(spacing)) / 1000
    of_arm: dict[str, Any] = {"arm": trained.arm, "n": trained.n, "repeat": trained.repeat}
    rows = []
    for name, value in labels.items():
        predicted, drawn = heads.belongs(prediction, value), heads.belongs(reference, value)
        pair = MaskPair(predicted & annotated, drawn, spacing, options.surface_tolerance, options.lesions)
        rows.append(CaseRow(**of_arm, case=case, patient=patient, label=name, **_measured(pair, voxel_ml, options)))
    return rows


def _measured(pair: MaskPair, voxel_ml: float, options: EvaluationOptions) -> dict[str, Any]:
    """The columns of a row that two masks decide."""
    counts, lesions, policies = pair.counts, pair.lesions, options.policies()
    return {
        "tp": counts.true_positive,
        "fp": counts.false_positive,
        "fn": counts.false_negative,
        "empty": counts.empty.value,
        "reference_ml": counts.reference * voxel_ml,
        "predicted_ml": counts.predicted * voxel_ml,
        "lesions_reference": None if lesions is None else lesions.reference,
        "lesions_detected": None if lesions is None else lesions.detected,
        "lesions_predicted": None if lesions is None else lesions.predicted,
        "lesions_true": None if lesions is None else lesions.true,
        **{metric: entry.of(pair, policies[metric]) for metric, entry in METRICS.items()},
    }
