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
    millilitres = float(np.prod(spacing)) / 1000
    policies = options.policies()
    annotated = reference != IGNORED
    rows = []
    for name, value in labels.items():
        predicted, drawn = heads.belongs(prediction, value), heads.belongs(reference, value)
        pair = MaskPair(predicted & annotated, drawn, spacing, options.surface_tolerance, options.lesions)
        measured: dict[str, Any] = {metric: entry.of(pair, policies[metric]) for metric, entry in METRICS.items()}
        lesions = pair.lesions
        rows.append(
            CaseRow(
                arm=trained.arm,
                n=trained.n,
                repeat=trained.repeat,
                case=case,
                patient=patient,
                label=name,
                tp=pair.counts.true_positive,
                fp=pair.counts.false_positive,
                fn=pair.counts.false_negative,
                empty=pair.counts.empty.value,
                reference_ml=pair.counts.reference * millilitres,
                predicted_ml=pair.counts.predicted * millilitres,
                lesions_reference=None if lesions is None else lesions.reference,
                lesions_detected=None if lesions is None else lesions.detected,
                lesions_predicted=None if lesions is None else lesions.predicted,
                lesions_true=None if lesions is None else lesions.true,
                **measured,
            )
        )
    return rows
