"""The voxel correlation of volume intervals, fitted on other test patients than those it is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from pipeline.evaluation.calibration import Numbers
from pipeline.evaluation.temperature_scaling import scale, two_folds
from pipeline.prediction.correlated_volume import volume_given

SMALLEST, LARGEST = 1e-4, 0.9
"""Range of ρ."""
_FARTHEST = 3.0
"""Largest size of z that counts: a reference that no z gives, because it lies elsewhere, must not decide over ρ."""


@dataclass(frozen=True)
class PossibleVoxels:
    """The voxels of one test case that may belong to a structure.

    Attributes:
        patient: whose case it is.
        number: of the structure among the alternatives, from 1.
        probability: `[A, M]` of alternatives that exclude each other, background first, each above 0; of overlapping
            structures, whether the structure is there or not.
        reference: voxels that the structure has.
    """

    patient: str
    number: int
    probability: Numbers
    reference: int

    @property
    def own(self) -> Numbers:
        """`[M]` probability of the structure."""
        return self.probability[self.number]

    def scaled(self, temperature: float) -> PossibleVoxels:
        """Returns the same voxels after temperature scaling."""
        return replace(self, probability=scale(self.probability, temperature))


def fit_correlation(structures: Sequence[PossibleVoxels]) -> float | None:
    """Finds the ρ under which the common factors behind the reference volumes have unit mean square.

    Under the right ρ these z are standard normal. Where the reference is not the expected volume, a smaller ρ needs a
    larger z for it.

    Args:
        structures: to fit on; every patient weighs the same.

    Returns:
        ρ, or None where no reference holds a structure that was found.
    """
    known = [s for s in structures if s.reference and s.own.size]
    if not known:
        return None
    scores = [ndtri(s.own) for s in known]
    patients = [s.patient for s in known]
    weights = np.array([1 / patients.count(p) for p in patients])

    def excess(log_correlation: float) -> float:
        factors = [_factor(own, s.reference, np.exp(log_correlation)) for own, s in zip(scores, known, strict=True)]
        return float(np.average(np.square(factors), weights=weights)) - 1

    low, high = np.log(SMALLEST), np.log(LARGEST)
    if excess(low) <= 0:
        return SMALLEST
    if excess(high) >= 0:
        return LARGEST
    return float(np.exp(brentq(excess, low, high, xtol=1e-3)))


def _factor(scores: Numbers, reference: int, correlation: float) -> float:
    """The z that gives the reference volume."""

    def missing(z: float) -> float:
        return volume_given(z, scores, correlation) - reference

    if missing(_FARTHEST) >= 0:
        return _FARTHEST
    if missing(-_FARTHEST) <= 0:
        return -_FARTHEST
    return float(brentq(missing, -_FARTHEST, _FARTHEST, xtol=1e-3))


def cross_fitted_correlation(
    structures: Sequence[PossibleVoxels], temperatures: Mapping[str, float], seed: int
) -> dict[str, float]:
    """Fits ρ for each patient on the half of the patients that it is not in, under that patient's temperature.

    Args:
        structures: of all test cases, before temperature scaling.
        temperatures: patient → T, fitted on the other half.
        seed: of the study.

    Returns:
        Patient → ρ; left out is who has no T, or whose other half holds no structure.
    """
    folds = two_folds([s.patient for s in structures], seed)
    fitted: dict[str, float] = {}
    for fold in (0, 1):
        members = [p for p in temperatures if folds.get(p) == fold]
        if not members:
            continue
        # One T for the whole half, so that what ρ is fitted under is what it is used under.
        temperature = temperatures[members[0]]
        others = [s.scaled(temperature) for s in structures if folds[s.patient] != fold]
        correlation = fit_correlation(others)
        if correlation is not None:
            fitted |= dict.fromkeys(members, correlation)
    return fitted
