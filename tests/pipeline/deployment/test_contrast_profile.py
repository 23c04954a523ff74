"""A scan with a different contrast from the training cases is distinguished from one that varies as they do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data.volume import Volume
from pipeline.deployment.contrast_profile import TrainingProfile
from pipeline.deployment.fingerprint import CaseFacts, TrainingFingerprint, case_facts
from pipeline.deployment.predict_options import SuspicionLimits
from pipeline.deployment.suspicion import other_contrast, unlike_training
from preprocessing.template import load_template
from preprocessing.tissue_contrast import tissue_contrast

FLAIR = {"white": 0.8, "grey": 1.0, "fluid": 0.2}
T1 = {"white": 1.0, "grey": 0.6, "fluid": 0.2}


def brain(levels: dict[str, float], seed: int, spacing: float = 4.0) -> tuple[Volume, Volume]:
    """The template's brain with one grey value for each tissue, and its mask."""
    generator = np.random.default_rng(seed)
    template = load_template(spacing)
    white, grey = template.white.array, template.grey.array
    fluid = np.clip(template.brain.array - white - grey, 0, 1)
    jitter = {name: value + generator.normal(0, 0.04) for name, value in levels.items()}
    array = jitter["white"] * white + jitter["grey"] * grey + jitter["fluid"] * fluid
    array = 300 * (array + generator.normal(0, 0.05, array.shape)) * template.mask
    image = template.image.with_array(array.astype(np.float32))
    return image, template.image.with_array(template.mask.astype(np.uint8))


def facts(levels: dict[str, float], seed: int, aligned: bool = True) -> CaseFacts:
    image, mask = brain(levels, seed)
    tissues = {"image": tissue_contrast(image, mask)} if aligned else {}
    records = [{"step": "alignment", "suspect": [], "matrix": np.eye(4).tolist(), "tissues": tissues}]
    inside = mask.array > 0
    scaled = (image.array - image.array[inside].mean()) / image.array[inside].std()
    return case_facts(scaled[None], inside, image.affine, ["image"], records)


@pytest.mark.slow
def test_the_order_of_tissues_is_measured_in_standard_deviations() -> None:
    image, mask = brain(T1, 0)
    found = tissue_contrast(image, mask)
    assert found is not None
    assert found["white"] > found["grey"] > found["fluid"]
    # Neither unit nor offset of MR matter.
    other = tissue_contrast(image.with_array(image.array * 7 - 30), mask)
    assert other == pytest.approx(found, abs=1e-3)
    assert tissue_contrast(image, mask.with_array(mask.array * 0)) is None
    assert tissue_contrast(image.with_array(image.array * 0), mask) is None


def test_another_contrast_is_told_and_the_same_one_is_not() -> None:
    training = TrainingFingerprint.of([facts(FLAIR, seed) for seed in range(4)])
    limits = SuspicionLimits()
    for seed in range(10, 20):
        assert list(other_contrast(facts(FLAIR, seed), training, limits.contrast)) == []
    (reason,) = other_contrast(facts(T1, 20), training, limits.contrast)
    assert reason.startswith("image: a different contrast from training (white")
    assert "in training grey" in reason
    assert reason in unlike_training(facts(T1, 20), training, limits)
    assert list(other_contrast(facts(T1, 20), training, 50.0)) == []


def test_a_scan_is_like_records_that_were_stored() -> None:
    """A record of preprocessing is stored with sorted keys; a new scan has them as they were measured."""
    stored = [json.loads(json.dumps(facts(FLAIR, seed).model_dump(), sort_keys=True)) for seed in range(4)]
    training = TrainingFingerprint.of([CaseFacts.model_validate(case) for case in stored])
    assert list(other_contrast(facts(FLAIR, 10), training, 1.5)) == []
    (reason,) = other_contrast(facts(T1, 20), training, 1.5)
    shown = reason.rsplit("in training ", 1)[1]
    assert shown.startswith("grey")
    assert shown.index("white") < shown.index("fluid")


def test_a_weak_t1_is_told_though_fluid_is_as_in_training() -> None:
    def tissues(white: float, grey: float, fluid: float) -> CaseFacts:
        own = {"image": {"white": white, "grey": grey, "fluid": fluid}}
        return facts(FLAIR, 0).model_copy(update={"tissues": own})

    training = TrainingFingerprint.of([tissues(0.24, 0.14, -1.2), tissues(0.43, 0.04, -1.0), tissues(0.45, 0.07, -1.2)])
    assert list(other_contrast(tissues(0.28, -0.02, -0.71), training, 1.5)) == []
    (reason,) = other_contrast(tissues(0.68, -0.09, -0.95), training, 1.5)
    assert "a different contrast" in reason


def test_without_alignment_the_form_of_the_histogram_tells() -> None:
    def scan(seed: int, power: float) -> CaseFacts:
        values = np.random.default_rng(seed).gamma(2.0, size=(1, 16, 16, 16)) ** power
        array = (values - values.mean()) / values.std()
        return case_facts(array.astype(np.float32), np.ones((16, 16, 16), bool), np.eye(4), ["image"], [])

    training = TrainingFingerprint.of([scan(seed, 1.0) for seed in range(3)])
    assert list(other_contrast(scan(9, 1.0), training, 2.0)) == []
    (reason,) = other_contrast(scan(9, -0.5), training, 2.0)
    assert "the shape of the histogram lies" in reason


def test_spread_is_the_largest_distance_of_a_case_to_the_others() -> None:
    profile = TrainingProfile.of([(0.0, 0.0), (1.0, 0.0), (2.0, 3.0)])
    assert profile.mean == pytest.approx((1.0, 1.0))
    assert profile.spread == pytest.approx((1.5 + 3.0) / 2)
    assert profile.distance((1.0, 2.0)) == pytest.approx(0.5)
    assert TrainingProfile.of([(1.0, 2.0)]).spread == 0


def test_a_model_without_profiles_says_nothing_of_contrast() -> None:
    training = TrainingFingerprint.of([facts(FLAIR, seed) for seed in range(3)])
    raw = training.model_dump(mode="json")
    old = TrainingFingerprint.model_validate(
        {k: v for k, v in raw.items() if k not in ("histogram", "tissues", "white_over_grey")}
    )
    assert list(other_contrast(facts(T1, 9), old, 2.0)) == []
