"""Which annotations disagree most with what the annotations of the other patients teach.

A model that never saw a case says of each voxel how probable the structure is there. Where these probabilities are
right, the annotation surprises by as many nats as the model itself expects: the mean of −log p(annotation) is the
entropy. An annotation that surprises more is either a case unlike the others or drawn in another way. Ranking labels
by what out-of-fold predictions think of them is confident learning (Northcutt et al. 2021, JAIR 70, 1373–1411; for
segmentation Lad & Mueller 2023, arXiv 2307.05080); taking off the entropy keeps a case that is merely hard, and known
to be, from the top of the list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.arm_calibration import CalibrationCase
from pipeline.evaluation.case_evaluation import TrainedArm
from pipeline.metrics.overlap import count_voxels, dice
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.expected_dice import expected_dice

AUDIT, LABEL_AUDIT = "audit.csv", "label_audit.csv"
"""Rows of one trained arm, in its folder; and those of the study's best arm, in `results/`."""
CONFIDENT = 0.9
"""Probability from which a model counts as sure of a voxel."""
STANDS_OUT = 3.5
"""Robust standard scores above this stand out (Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers)."""
FEWEST = 5
"""Annotations of a structure of which one can stand out."""


@dataclass(frozen=True)
class AuditRow:
    """What out-of-fold predictions of one arm say of one annotated structure.

    Attributes:
        arm: name of the arm.
        n: number of target patients that it learned from.
        repeat: which draw of patients and seed; −1 for the mean over repeats.
        case: whose annotation it is.
        patient: whose case it is.
        label: the structure.
        prediction: key of the prediction, a folder below `predict-test/`.
        surprise: mean excess of −log p(annotation) over the entropy, in nats for each voxel of the structure; 0 is what
            good probabilities expect, more is worse.
        dice: of predicted and annotated mask, on the preprocessed grid.
        expected_dice: what the probabilities promise; NaN where nothing was predicted.
        left_out_ml: not annotated, although the model is sure that the structure is there.
        extra_ml: annotated, although the model is sure that the structure is not there.
        stands_out: 1 if the surprise is far above that of the other annotations of the structure; NaN where they are
            too few to tell.
    """

    arm: str
    n: int
    repeat: int
    case: str
    patient: str
    label: str
    prediction: str
    surprise: float
    dice: float
    expected_dice: float
    left_out_ml: float
    extra_ml: float
    stands_out: float = math.nan


def audit_case(predicted: CalibrationCase, trained: TrainedArm, prediction: str, clamp: float) -> list[AuditRow]:
    """Compares each annotated structure of a case with the prediction of models that never saw the case.

    Args:
        predicted: prediction and annotation.
        trained: which arm predicted it.
        prediction: key of the prediction.
        clamp: smallest probability that counts, so that one voxel cannot outweigh a case.

    Returns:
        A row for each structure, in the order of the classes.
    """
    millilitres = float(np.prod(predicted.spacing)) / 1000
    known = predicted.annotated
    rows = []
    for number, label in enumerate(predicted.labels, start=1):
        # What nobody has annotated can neither agree nor disagree.
        probability = np.where(known, predicted.probability[number - 1], np.float32(0))
        mask = predicted.heads.belongs(predicted.prediction, number) & known
        annotated = predicted.heads.belongs(predicted.reference, number)
        expected = expected_dice(probability, mask, predicted.spacing)
        rows.append(
            AuditRow(
                trained.arm,
                trained.n,
                trained.repeat,
                predicted.case,
                predicted.patient,
                label,
                prediction,
                surprise=excess_surprise(probability, mask, annotated, predicted.spacing, clamp),
                dice=dice(count_voxels(mask, annotated)),
                expected_dice=expected,
                left_out_ml=int(np.count_nonzero(~annotated & (probability >= CONFIDENT))) * millilitres,
                extra_ml=int(np.count_nonzero(annotated & (probability <= 1 - CONFIDENT))) * millilitres,
            )
        )
    return rows


def excess_surprise(
    probability: NDArray[np.floating],
    mask: NDArray[np.bool_],
    annotated: NDArray[np.bool_],
    spacing: Sequence[float],
    clamp: float,
) -> float:
    """Returns `Σ_v (−log p_v(annotation) − H(p_v)) / |mask ∪ annotation|` in nats; 0 where both are empty.

    The sum is over the voxels of both masks and near them: farther away, a million sure voxels would add noise alone.

    Args:
        probability: `[X, Y, Z]` of the structure.
        mask: `[X, Y, Z]` predicted.
        annotated: `[X, Y, Z]`.
        spacing: mm between voxel centres along each axis.
        clamp: smallest probability.
    """
    size = int(np.count_nonzero(mask | annotated))
    if not size:
        return 0.0
    near = possible_voxels(mask, spacing) | possible_voxels(annotated, spacing)
    p = np.clip(probability[near].astype(np.float64), clamp, 1 - clamp)
    # With the log-odds z, −log p(y) − H = (p − y) z: what is expected of y cancels.
    return float(((p - annotated[near]) * np.log(p / (1 - p))).sum() / size)


def study_audit(rows: Iterable[AuditRow]) -> list[AuditRow]:
    """Averages the rows of an arm over repeats, marks those that stand out, and puts the worst first.

    Standard scores are robust: 0.6745 (x − median) / median absolute deviation, within each structure.
    """
    grouped: dict[tuple[str, str], list[AuditRow]] = {}
    for row in rows:
        grouped.setdefault((row.case, row.label), []).append(row)
    means = [_mean(group) for group in grouped.values()]
    limits = {label: _limit([row.surprise for row in means if row.label == label]) for _, label in grouped}
    marked = [
        replace(row, stands_out=math.nan if math.isnan(limits[row.label]) else float(row.surprise > limits[row.label]))
        for row in means
    ]
    return sorted(marked, key=lambda row: (-row.surprise, row.case, row.label))


def worst_of_each_case(rows: Iterable[AuditRow]) -> list[AuditRow]:
    """Returns the first row of each case, in the order of the rows."""
    worst: dict[str, AuditRow] = {}
    for row in rows:
        worst.setdefault(row.case, row)
    return list(worst.values())


def _mean(rows: Sequence[AuditRow]) -> AuditRow:
    if len(rows) == 1:
        return rows[0]
    measured: Mapping[str, Sequence[float]] = {
        name: [value for row in rows if not math.isnan(value := getattr(row, name))]
        for name in ("surprise", "dice", "expected_dice", "left_out_ml", "extra_ml")
    }
    found: dict[str, Any] = {name: float(np.mean(values)) if values else math.nan for name, values in measured.items()}
    return replace(rows[0], repeat=-1, **found)


def _limit(values: Sequence[float]) -> float:
    """The value above which one stands out among others; NaN where they are too few."""
    if len(values) < FEWEST:
        return math.nan
    middle = float(np.median(values))
    return middle + STANDS_OUT / 0.6745 * float(np.median(np.abs(np.asarray(values) - middle)))
