"""The rate whose models predict patients best that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from data.errors import WorkspaceError
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.tuned_rate import RATE, RateTask, TunedRate, read_rate, tune_rate
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.reading import ReadingOptions
from pipeline.storage.cached_case import CachedCase


@pytest.fixture
def tuned(tmp_path: Path, make_case: Callable[..., CachedCase], store_prediction: Callable[..., Path]) -> Callable:
    """Returns a function that tunes a rate on predictions of cases whose cube is found with so much probability."""

    def tune(found: dict[float, Sequence[float]], patients: str, **reading: float) -> TunedRate:
        cases = [make_case(f"case-{number}", patient=patient) for number, patient in enumerate(patients)]
        tried = []
        for rate, probabilities in found.items():
            folder = tmp_path / f"rate-{rate}"
            for case, probability in zip(cases, probabilities, strict=True):
                cube = (case.label().numpy()[None] > 0).astype(np.float32) * np.float32(probability)
                store_prediction(folder, cube, case=case.name, affine=case.affine, classes=tuple(case.classes))
            # Two folds.
            tried.append((rate, [(folder, cases[:1]), (folder, cases[1:])]))
        out = tmp_path / "out"
        out.mkdir()
        tune_rate(out, ProgressFile(tmp_path / "progress"), task=RateTask(tried, ReadingOptions(**reading)))
        record = TunedRate.model_validate_json((out / RATE).read_text())
        assert read_rate(out) == record.rate
        return record

    return tune


def test_the_highest_mean_dice_wins(tuned: Callable) -> None:
    record = tuned({0.1: (0.9, 0.1, 0.1), 0.2: (0.9, 0.9, 0.1), 0.4: (0.1, 0.1, 0.1)}, "abc")
    assert (record.rate, record.tried, record.patients) == (0.2, (0.1, 0.2, 0.4), 3)
    assert record.dice == pytest.approx((1 / 3, 2 / 3, 0))


def test_of_equal_ones_the_smallest(tuned: Callable) -> None:
    assert tuned({0.1: (0.9, 0.1), 0.2: (0.1, 0.9), 0.4: (0.1, 0.1)}, "ab").rate == 0.1


def test_patients_weigh_the_same_whatever_their_cases(tuned: Callable) -> None:
    assert tuned({0.1: (0.9, 0.9, 0.1), 0.2: (0.1, 0.9, 0.9)}, "aab").rate == 0.2


def test_without_its_file_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="graft infer"):
        read_rate(tmp_path)


def test_rates_are_several_and_in_order() -> None:
    assert TargetTrainingOptions(tuned_rates=(4e-3, 1e-3, 4e-3)).tuned_rates == (1e-3, 4e-3)
    for wrong in ([1e-3], [1e-3, 0.0]):
        with pytest.raises(ValueError, match="tuned_rates"):
            TargetTrainingOptions.model_validate({"tuned_rates": wrong})
