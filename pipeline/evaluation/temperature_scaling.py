"""Temperature scaling, fitted on other test patients than those it is judged on.

One number T divides the logits (Guo et al. 2017). Stored probabilities are enough: `softmax(log p / T)` is exact for
one network, whose logits differ from `log p` by a constant for each voxel; for an ensemble or several draws it scales
the averaged probability. T is fitted on one half of the test patients and judged on the other, and vice versa. So a
scaled arm has seen labels that no other arm has: an advantage for the rival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from data.random_streams import random_stream
from models.heads import Heads
from pipeline.evaluation.calibration import BandSample, Numbers
from pipeline.prediction.temperature import from_log_probability

SMALLEST, LARGEST = 0.05, 20.0
"""Range of T; the likelihood is convex in 1/T, so one minimum lies in it or at an end."""

SCALED = "+temperature"
"""What is added to an arm's name where its probabilities are scaled."""


def scale(probability: Numbers, temperature: float, heads: Heads = Heads.EXCLUSIVE) -> Numbers:
    """Divides the logits of probabilities, `softmax(log p / T)` for exclusive classes.

    Args:
        probability: `[C, M]`, each above 0 and, with overlapping structures, below 1.
        temperature: T, above 0; more than 1 makes predictions less certain.
        heads: what the channels stand for.

    Returns:
        `[C, M]`; the most probable class stays the same.
    """
    scaled: Numbers = from_log_probability(torch.from_numpy(np.log(probability)), temperature, heads).numpy()
    return scaled


def fit_temperature(samples: Sequence[BandSample]) -> float | None:
    """Finds the T of the smallest negative log-likelihood.

    Args:
        samples: the voxels to fit on; every patient weighs the same, whatever the number of its voxels.

    Returns:
        T, or None where there is no voxel.
    """
    sizes: dict[str, int] = {}
    for sample in samples:
        sizes[sample.patient] = sizes.get(sample.patient, 0) + len(sample.classes)
    parts = [
        (np.log(probability), truth, 1 / sizes[sample.patient])
        for sample in samples
        if len(sample.classes)
        for probability, truth in sample.choices()
    ]
    if not parts:
        return None

    def loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        total = 0.0
        for log_p, classes, weight in parts:
            logits = log_p * factor
            top = logits.max(axis=0)
            normaliser = top + np.log(np.exp(logits - top).sum(axis=0))
            total += weight * float((normaliser - logits[classes, np.arange(len(classes))]).sum())
        return total

    found = minimize_scalar(loss, bounds=(np.log(SMALLEST), np.log(LARGEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def two_folds(patients: Sequence[str], seed: int) -> Mapping[str, int]:
    """Parts patients into two halves, the same for every arm, size and repeat of a study."""
    order = sorted(set(patients))
    mixed = random_stream(seed, "evaluation", "temperature").permutation(len(order))
    return {order[int(place)]: rank % 2 for rank, place in enumerate(mixed)}


def cross_fitted(samples: Sequence[BandSample], seed: int) -> dict[str, float]:
    """Fits T for each patient on the half of the patients that it is not in.

    Args:
        samples: all test cases.
        seed: of the study.

    Returns:
        Patient → T; a patient whose other half holds no voxel is left out.
    """
    folds = two_folds([s.patient for s in samples], seed)
    of_other_half = {fold: fit_temperature([s for s in samples if folds[s.patient] != fold]) for fold in (0, 1)}
    fitted = {patient: of_other_half[fold] for patient, fold in folds.items()}
    return {patient: temperature for patient, temperature in fitted.items() if temperature is not None}
