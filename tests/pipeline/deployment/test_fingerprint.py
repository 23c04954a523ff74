"""Numbers of a case, and the spans of the training cases."""

from __future__ import annotations

import numpy as np
import pytest

from data.volume import Volume, reorient
from pipeline.deployment.fingerprint import Span, TrainingFingerprint, cached_facts, case_facts, raw_geometry, voxel_ml
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.orientation import OrientationOptions
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import Subject


def test_geometry_is_told_along_the_axes_of_the_patient() -> None:
    volume = Volume(np.zeros((10, 12, 14), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
    chain = Chain(
        PreprocessingOptions(
            canonical_orientation=OrientationOptions(), resampling=ResamplingOptions(spacing=(2, 2, 2))
        )
    )
    for orientation in ("RAS", "PIR", "SLA"):
        _, records = chain.apply(Subject("a", {"T1": reorient(volume, orientation)}))
        assert raw_geometry(records, (5, 5, 5), np.eye(4)) == ((10, 12, 14), (1, 2, 3))
    assert raw_geometry([], (10, 12, 14), volume.affine) == ((10, 12, 14), (1, 2, 3))


def test_volumes_are_those_of_the_patient_and_not_of_the_template() -> None:
    matrix = np.diag([1.1, 0.9, 1.2, 1.0])
    matrix[:3, 3] = 7
    records = [{"step": "alignment", "suspect": [], "matrix": matrix.tolist()}]
    affine = np.diag([2.0, 2.0, -2.0, 1.0])
    assert voxel_ml(affine, []) == pytest.approx(0.008)
    assert voxel_ml(affine, records) == pytest.approx(0.008 * 1.1 * 0.9 * 1.2)
    # The template's map carries a cube of the template to a box of these sides in the scan.
    image, mask = np.ones((1, 4, 4, 4), np.float32), np.zeros((4, 4, 4), bool)
    mask[:2] = True
    facts = case_facts(image, mask, affine, ["T1"], records, {"half": mask})
    assert facts.mask_ml == facts.structure_ml["half"] == pytest.approx(32 * 0.008 * 1.188)


def test_intensities_count_inside_the_mask() -> None:
    image = np.zeros((2, 3, 3, 3), np.float32)
    mask = np.zeros((3, 3, 3), bool)
    mask[0] = True
    image[:, 0] = np.arange(9).reshape(3, 3)
    image[1] *= 10
    facts = case_facts(image, mask, np.eye(4), ["T1", "T2"], [])
    assert facts.after["T1"]["p50"] == 4
    assert facts.after["T2"]["mean"] == 40
    assert facts.after["T1"]["std"] == pytest.approx(np.arange(9).std())
    assert facts.before == {}


def test_spans_cover_all_cases_and_structures_that_are_there() -> None:
    mask = np.ones((2, 2, 2), bool)
    cases = [
        case_facts(np.full((1, 2, 2, 2), k, np.float32), mask, np.eye(4) * k, ["T1"], [], {"a": mask & (k > 1)})
        for k in (1, 2, 3)
    ]
    found = TrainingFingerprint.of(cases)
    assert found.cases == 3
    assert found.spacing[0] == Span(low=1, high=3)
    assert found.extent[2] == Span(low=2, high=6)
    assert found.after["T1"]["mean"] == Span(low=1, high=3)
    volumes = found.structure_ml["a"]
    assert (volumes.low, volumes.high) == pytest.approx((0.064, 0.216))


def test_a_training_case_tells_its_structures(make_case) -> None:
    case = make_case("one", 12)
    facts = cached_facts(case, ["T1"])
    assert facts.structure_ml == {"cube": pytest.approx(4**3 * 2 * 2 * 3 / 1000)}
    assert facts.spacing == (2, 2, 3)
    assert facts.shape == (12, 12, 12)
