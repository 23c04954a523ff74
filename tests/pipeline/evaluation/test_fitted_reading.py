from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluation.arm_calibration import CalibrationCase
from pipeline.evaluation.fitted_reading import fitted_reading
from pipeline.evaluation.options import CalibrationOptions
from pipeline.prediction.reading import ReadingOptions

SHAPE = (24, 24, 24)
# Without the clamp, which softens probabilities that are far too certain.
OPTIONS = CalibrationOptions(band=3.0, clamp=1e-9)


def overconfident(number: int, temperature: float) -> CalibrationCase:
    """A blob whose reference is drawn from probabilities that are softer by a temperature than those predicted."""
    generator = np.random.default_rng(number)
    distance = np.linalg.norm(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - 12, axis=-1)
    honest = (7 - distance) / 1.5
    reference = (generator.uniform(size=SHAPE) < 1 / (1 + np.exp(-honest))).astype(np.intp)
    logits = np.stack([np.zeros(SHAPE), honest * temperature])
    probability = softmax(logits, axis=0)[1:]
    prediction = (probability[0] > 0.5).astype(np.intp)
    return CalibrationCase(
        f"c{number}", f"p{number}", ("blob",), (1.0, 1.0, 1.0), probability, prediction, reference, None, None, 1
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    cases = [overconfident(number, temperature) for number in range(4)]
    found = fitted_reading(ReadingOptions(logit_temperature=9.0), cases, OPTIONS)
    assert found.logit_temperature == pytest.approx(temperature, rel=0.05)
    assert found.voxel_correlation is None


def test_the_correlation_is_fitted_where_one_is_declared_and_under_the_temperature() -> None:
    declared = ReadingOptions(voxel_correlation=0.5)
    independent = fitted_reading(declared, [overconfident(number, 3.0) for number in range(6)], OPTIONS)
    # The voxels of these references are drawn one by one.
    assert independent.voxel_correlation is not None
    assert independent.voxel_correlation < 0.02


def test_nothing_to_fit_on_leaves_what_was_declared() -> None:
    declared = ReadingOptions(logit_temperature=2.0, voxel_correlation=0.3)
    assert fitted_reading(declared, [], OPTIONS) == declared
