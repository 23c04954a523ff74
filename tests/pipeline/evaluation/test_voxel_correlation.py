"""The voxel correlation that the reference volumes speak for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.special import ndtri

from pipeline.evaluation.calibration import class_probabilities
from pipeline.evaluation.temperature_scaling import two_folds
from pipeline.evaluation.voxel_correlation import (
    LARGEST,
    SMALLEST,
    PossibleVoxels,
    cross_fitted_correlation,
    fit_correlation,
)


def structures(correlation: float, patients: Sequence[str], seed: int = 0) -> list[PossibleVoxels]:
    """Structures whose voxels were drawn with this correlation, one of each patient."""
    generator = np.random.default_rng(seed)
    made = []
    for patient in patients:
        own = generator.beta(0.6, 0.9, 300)
        common, single = generator.standard_normal(), generator.standard_normal(300)
        inside = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * single < ndtri(own)
        probability = class_probabilities(own[None], 1e-6)
        made.append(PossibleVoxels(patient, 1, probability, int(inside.sum())))
    return made


@pytest.mark.parametrize("correlation", [0.05, 0.2, 0.5])
def test_it_is_found_again(correlation: float) -> None:
    found = fit_correlation(structures(correlation, [f"p{k}" for k in range(100)]))
    assert found == pytest.approx(correlation, rel=0.3)


def test_its_range_is_kept() -> None:
    certain = structures(0.1, ["p", "q"])
    exact = [PossibleVoxels(s.patient, 1, s.probability, round(float(s.own.sum()))) for s in certain]
    assert fit_correlation(exact) == pytest.approx(SMALLEST, rel=0.5)
    impossible = [PossibleVoxels(s.patient, 1, s.probability, 10**6) for s in certain]
    assert fit_correlation(impossible) == LARGEST
    nothing = [PossibleVoxels(s.patient, 1, s.probability, 0) for s in certain]
    assert fit_correlation(nothing) is fit_correlation([]) is None


def test_a_patient_with_many_structures_weighs_as_one_with_one() -> None:
    once, other = structures(0.3, ["p", "q"], seed=3)
    assert fit_correlation([once, other]) == pytest.approx(fit_correlation([once] * 5 + [other]))


def test_it_comes_from_the_other_half_of_the_patients() -> None:
    patients = [f"p{k:02d}" for k in range(20)]
    found = structures(0.2, patients)
    temperatures = dict.fromkeys(patients, 1.0)
    before = cross_fitted_correlation(found, temperatures, seed=0)
    folds = two_folds(patients, 0)
    changed = [
        PossibleVoxels(s.patient, 1, s.probability, s.reference // 3) if folds[s.patient] == 0 else s for s in found
    ]
    after = cross_fitted_correlation(changed, temperatures, seed=0)
    for patient in patients:
        assert (before[patient] == after[patient]) == (folds[patient] == 0)


def test_it_is_fitted_under_the_temperature_of_the_half_that_it_is_for() -> None:
    patients = [f"p{k:02d}" for k in range(20)]
    found, folds = structures(0.2, patients), two_folds(patients, 0)
    temperatures = {patient: 1.0 + folds[patient] for patient in patients}
    fitted = cross_fitted_correlation(found, temperatures, seed=0)
    for fold in (0, 1):
        others = [s.scaled(1.0 + fold) for s in found if folds[s.patient] != fold]
        assert {fitted[p] for p in patients if folds[p] == fold} == {fit_correlation(others)}


def test_one_structure_that_lies_elsewhere_does_not_decide() -> None:
    found = structures(0.1, [f"p{k}" for k in range(40)])
    lost = PossibleVoxels("lost", 1, found[0].probability, 10**6)
    assert fit_correlation([*found, lost]) < 3 * fit_correlation(found)
