"""The voxel correlation of volume intervals, fitted on other test patients than those it is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from pipeline.evaluation.calibration import Numbers
from pipeline.evaluation.temperature_scaling import scale, two_folds
from pipeline.inference.correlated_volume import volume_given

SMALLEST, LARGEST = 1e-4, 0.9
"""Range of ρ."""
_FARTHEST = 8.0
"""Size of z that stands for a volume that no z gives."""


@dataclass(frozen=True)
class PossibleVoxels:
    """The voxels of one test case that may belong to a structure.

    Attributes:
        patient: whose case it is.
        number: of the class, from 1.
        probability: `[K + 1, M]`, background first, each above 0.
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

    A volume that the probabilities make likely has a factor z near 0; the smaller ρ, the farther out is the z that it
    takes for the same volume. Under the right ρ these z are standard normal.

    Args:
        structures: to fit on; every patient weighs the same.

    Returns:
        ρ, or None where no reference holds a structure.
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


def cross_fitted_correlation(structures: Sequence[PossibleVoxels], seed: int) -> Mapping[str, float]:
    """Fits ρ for each patient on the half of the patients that it is not in, the halves of temperature scaling.

    Args:
        structures: of all test cases, after temperature scaling.
        seed: of the study.

    Returns:
        Patient → ρ; a patient whose other half holds no structure is left out.
    """
    folds = two_folds([s.patient for s in structures], seed)
    of_other_half = {fold: fit_correlation([s for s in structures if folds[s.patient] != fold]) for fold in (0, 1)}
    fitted = {patient: of_other_half[fold] for patient, fold in folds.items()}
    return {patient: correlation for patient, correlation in fitted.items() if correlation is not None}
