from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from pipeline.evaluation.calibration import BandSample
from pipeline.evaluation.temperature_scaling import cross_fitted, fit_temperature, scale, two_folds

logits = arrays(np.float64, (3, 6), elements=st.floats(-5, 5))


@given(logits, st.floats(0.1, 10))
def test_scaling_probabilities_is_scaling_logits(values: np.ndarray, temperature: float) -> None:
    np.testing.assert_allclose(
        scale(softmax(values, axis=0), temperature), softmax(values / temperature, axis=0), atol=1e-9
    )


def sample(patient: str, sharpness: float, seed: int, size: int = 4000, classes: int = 3) -> BandSample:
    """Voxels whose probabilities are too sharp by a factor: T = sharpness makes them honest."""
    generator = np.random.default_rng(seed)
    honest = softmax(generator.normal(0, 1.5, (classes, size)), axis=0)
    truth = (generator.random(size) > honest.cumsum(axis=0)).sum(axis=0)
    near = np.ones((classes - 1, size), bool)
    return BandSample("case-" + patient, patient, scale(honest, 1 / sharpness), truth, near, (0,) * (classes - 1))


def test_the_temperature_that_was_put_in_is_found() -> None:
    for sharpness in (0.5, 1.0, 3.0):
        assert fit_temperature([sample("a", sharpness, 0, 40_000)]) == pytest.approx(sharpness, rel=0.04)
    assert fit_temperature([sample("a", 1.0, 0, size=0)]) is None


def test_patients_weigh_alike_whatever_their_size() -> None:
    small, large = sample("a", 1.0, 0, 3000), sample("b", 4.0, 1, 30_000)
    copies = [BandSample(s.case, s.patient, s.probability, s.classes, s.near, s.outside) for s in [small] * 3]
    alone = fit_temperature([small, large])
    assert fit_temperature([*copies, large]) == pytest.approx(alone, rel=1e-3)
    assert fit_temperature([small]) < alone < fit_temperature([large])


def test_folds_are_halves_of_patients_and_the_same_for_every_arm() -> None:
    patients = [f"p{i}" for i in range(9)]
    folds = two_folds(patients, seed=3)
    assert folds == two_folds(patients[::-1] + patients, seed=3)
    assert sorted(folds.values()) == [0] * 5 + [1] * 4
    assert folds != two_folds(patients, seed=4)


def test_a_patient_is_scaled_by_the_other_half_alone() -> None:
    samples = [sample(f"p{i}", 2.0, i) for i in range(6)]
    folds, before = two_folds([s.patient for s in samples], seed=0), cross_fitted(samples, seed=0)
    changed = [sample(s.patient, 5.0, 10) if folds[s.patient] == 0 else s for s in samples]
    after = cross_fitted(changed, seed=0)
    assert set(folds.values()) == {0, 1}
    for patient, fold in folds.items():
        if fold == 0:
            assert after[patient] == before[patient] == pytest.approx(2.0, rel=0.1)
        else:
            assert after[patient] == pytest.approx(5.0, rel=0.1)


def test_one_patient_has_no_other_half() -> None:
    assert cross_fitted([sample("a", 2.0, 0)], seed=0) == {}
