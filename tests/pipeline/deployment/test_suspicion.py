"""Flags name the number and the training span."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Case, ImageSource
from data.errors import DataError
from data.image_file import write_volume
from data.image_header import ImageHeader
from data.modality import Modality
from data.volume import Volume
from pipeline.deployment.fingerprint import CaseFacts, Span, TrainingFingerprint, case_facts
from pipeline.deployment.predict_options import SuspicionLimits
from pipeline.deployment.raw_scan import GivenImage, RawScan
from pipeline.deployment.suspicion import implausible_structures, scan_reasons, unlike_training

LIMITS = SuspicionLimits()


def facts(scale: float = 1.0, shift: float = 0.0, spacing: float = 1.0, size: int = 12) -> CaseFacts:
    image = np.random.default_rng(size).normal(size=(1, size, size, size)).astype(np.float32) * scale + shift
    return case_facts(image, np.ones(image.shape[1:], bool), np.eye(4) * spacing, ["T1"], [])


@pytest.fixture
def training() -> TrainingFingerprint:
    return TrainingFingerprint.of([facts(size=12), facts(size=13), facts(size=14)])


def test_a_scan_like_the_training_cases_raises_no_flag(training: TrainingFingerprint) -> None:
    assert unlike_training(facts(size=11), training, LIMITS) == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (facts(spacing=3.0, size=5), ("spacing left-right is 3 mm", "in training 1 mm")),
        (facts(size=40), ("field of view back-front is 40 mm", "12 to 14 mm")),
        (facts(size=8), ("the mask has", "in training")),
        (facts(shift=2.0), ("T1: the", "after scaling")),
        (facts(scale=3.0), ("T1: the", "percentile after scaling")),
    ],
)
def test_a_scan_unlike_them_is_told_with_number_and_span(
    training: TrainingFingerprint, case: CaseFacts, words: tuple[str, ...]
) -> None:
    reasons = unlike_training(case, training, LIMITS)
    assert any(all(word in reason for word in words) for reason in reasons), reasons


def test_limits_decide(training: TrainingFingerprint) -> None:
    generous = SuspicionLimits(intensity=1e3, size=1e3)
    assert unlike_training(facts(shift=2.0, spacing=3.0), training, generous) == []


def test_raw_intensities_of_the_other_sign(training: TrainingFingerprint) -> None:
    spans = training.model_copy(update={"before": {"T1": {"mean": Span(low=90, high=110)}}})
    case = facts(size=12).model_copy(update={"before": {"T1": {"mean": -500.0}}})
    assert unlike_training(case, spans, LIMITS) == ["T1: the mean before scaling is -500, in training 90 to 110"]


def test_a_ct_is_refused_by_a_model_for_mr_unless_told_otherwise(tmp_path: Path) -> None:
    array = np.full((10, 10, 10), -1000, np.float32)
    array[3:7, 3:7, 3:7] = 40
    ct = Volume(array, np.eye(4))
    write_volume(ct, tmp_path / "a.nii.gz")
    scan = RawScan.read(Case("a", "a", {"T1": ImageSource(tmp_path / "a.nii.gz")}), ["T1"])
    raised = ct.with_array(array + 1024)
    shifted = RawScan.of_images(
        "a", {"T1": GivenImage(raised, ImageHeader(raised.shape, raised.affine, raised.array.dtype))}
    )
    with pytest.raises(
        DataError, match=r"looks like CT in Hounsfield units \(94% of .*expected the model's modality, mr"
    ):
        scan_reasons(scan, Modality.MR, LIMITS)
    (reason,) = scan_reasons(scan, Modality.MR, SuspicionLimits(refuse_other_modality=False))
    assert "looks like CT" in reason
    assert scan_reasons(scan, Modality.CT, LIMITS) == []
    (reason,) = scan_reasons(shifted, Modality.CT, LIMITS)
    assert "with 1,024 added" in reason


def test_structures_that_are_missing_or_of_a_strange_size() -> None:
    spans = {"a": Span(low=10, high=20), "b": Span(low=1, high=2)}
    reasons = implausible_structures({"a": 0.0, "b": 7.0, "c": 3.0}, spans, 3.0)
    assert reasons == ["no a found", "b has 7 ml, in training 1 to 2 ml"]
    assert implausible_structures({"a": 5.0, "b": 5.0}, spans, 3.0) == []
