"""Source patches in the appearance of the target: what is prepared, what a training draws, and whose scans are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data.errors import DataError
from data.splits import BootstrapSample, Split
from data.stored_record import read_record
from models.networks.residual_unet import ResidualUNetOptions
from pipeline.config.datasets import SourceOptions
from pipeline.config.study import StudyConfig
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.stages.source_translation import target_patients, translation_unit
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.cached_image import CachedImage
from pipeline.storage.file_names import PICTURES
from pipeline.storage.tensors import load_about, load_arrays, load_tensors, save_arrays
from pipeline.storage.workspace import Workspace
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.computing import ComputingOptions, Precision
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.source_network import SourceTask, train_source_network
from pipeline.training.source_options import SourceTrainingOptions
from pipeline.training.source_translation import SourceTranslation
from pipeline.training.translation_options import (
    FourierMatching,
    HistogramMatching,
    RandomContrast,
    Reference,
    TranslationOptions,
)
from pipeline.training.translation_preparation import TranslationTask, prepare_translation
from pipeline.training.translation_record import ABOUT, TranslationRecord

MakeCase = Callable[..., CachedCase]
OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
PATCHES = PatchOptions(size=(8, 8, 8), batch=3)
KINDS: dict[str, TranslationOptions] = {
    "histogram": HistogramMatching(share=1),
    "pooled": HistogramMatching(share=1, reference=Reference.POOLED),
    "fourier": FourierMatching(share=1, beta=0.2),
    "random_contrast": RandomContrast(share=1, classes=3),
}


@pytest.fixture
def task(make_case: MakeCase) -> TranslationTask:
    """Two source scans, and two of the target: brighter, with more contrast, and of another size."""
    generator = np.random.default_rng(0)
    bright = [30 + 9 * generator.normal(size=(1, 14, 14, 14)) for _ in range(2)]
    blank = np.zeros((14, 14, 14), np.int16)
    targets = [CachedImage.of(make_case(f"t{n}", image=own, label=blank)) for n, own in enumerate(bright)]
    source = [make_case("a"), make_case("b", corner=(7, 3, 8))]
    return TranslationTask(3, KINDS["histogram"], source, {"pool": {"t0": targets[:1], "t1": targets[1:]}}, PATCHES)


@pytest.fixture(autouse=True)
def _few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.translation_evidence._PATCHES", 12)


def prepared(task: TranslationTask, folder: Path, kind: str) -> TranslationTask:
    """Prepares a translation of a kind."""
    own = replace(task, options=KINDS[kind])
    folder.mkdir(exist_ok=True)
    prepare_translation(folder, ProgressFile(folder.parent / "progress"), task=own)
    return own


def sampler(task: TranslationTask, translation: SourceTranslation | None) -> PatchSampler:
    return PatchSampler([[case] for case in task.source], PATCHES, Augmentation(OFF), 5, translation=translation)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_are_translated_as_a_function_of_the_step_and_labels_stay(
    kind: str, task: TranslationTask, tmp_path: Path
) -> None:
    opened = prepared(task, tmp_path / kind, kind).inputs(tmp_path / kind).open()
    plain, translated = sampler(task, None), sampler(task, opened)
    images, labels, names = translated.batch(2)
    before = plain.batch(2)
    assert names == before[2]
    assert torch.equal(labels, before[1])
    assert not torch.allclose(images, before[0])
    assert torch.equal(sampler(task, opened).batch(2)[0], images)
    # Of different patches in a step, each is translated by itself.
    half = sampler(task, SourceTranslation(opened.translation, 0.5))
    pairs = [pair for step in range(4) for pair in zip(half.batch(step)[0], plain.batch(step)[0], strict=True)]
    assert 1 < sum(not torch.equal(a, b) for a, b in pairs) < 11
    if kind == "random_contrast":
        # Scaled like the scan, whose mean is near 0; the target plays no part.
        assert abs(float(images.mean())) < 3
    else:
        assert abs(float(images.mean()) - 30) < 4


@pytest.mark.parametrize("kind", ["histogram", "fourier", "random_contrast"])
def test_evidence_is_written_and_what_is_nearer_to_the_target_is_said_so(
    kind: str, task: TranslationTask, tmp_path: Path
) -> None:
    prepared(task, tmp_path / kind, kind)
    record = read_record(tmp_path / kind / ABOUT, TranslationRecord)
    assert record.options == KINDS[kind]
    assert (record.source_scans, record.target_scans, record.patients) == (2, 2, {"pool": ("t0", "t1")})
    assert record.distances is not None
    assert abs(record.distances.within) < 0.1
    assert record.distances.before > 0.5
    if kind == "histogram":
        assert record.distances.after < 0.5 * record.distances.before
    slices = load_arrays(tmp_path / kind / PICTURES)
    assert {name: own.shape for name, own in slices.items()} == dict.fromkeys(
        ("source", "translated", "target"), (2, 16, 16)
    )
    np.testing.assert_array_equal(slices["source"][1], task.source[1].image()[0, :, :, 8])
    assert load_about(tmp_path / kind / PICTURES) == {"source": ["a", "b"], "target": ["t0", "t1"]}


def test_random_contrast_needs_no_target(task: TranslationTask, tmp_path: Path) -> None:
    prepared(replace(task, targets={}), tmp_path / "alone", "random_contrast")
    record = read_record(tmp_path / "alone" / ABOUT, TranslationRecord)
    assert record.distances is None
    assert record.target_scans == 0
    assert set(load_arrays(tmp_path / "alone" / PICTURES)) == {"source", "translated"}


@pytest.mark.parametrize("kind", ["histogram", "fourier", "random_contrast"])
def test_around_the_content_nothing_changes(kind: str, task: TranslationTask, tmp_path: Path) -> None:
    for case in task.source:
        arrays = load_arrays(case.path)
        arrays["mask"][:8] = 0
        arrays["image"][:, :8] = 0
        save_arrays(case.folder / ARRAYS, arrays, load_about(case.path))
    opened = prepared(task, tmp_path / kind, kind).inputs(tmp_path / kind).open()
    whole_volume = PatchOptions(size=(20, 16, 16), batch=1)
    image = PatchSampler([[task.source[0]]], whole_volume, Augmentation(OFF), 5, translation=opened).batch(0)[0][0, 0]
    # Two voxels on each side lie beyond the volume.
    assert not image[:10].any()
    plain = PatchSampler([[task.source[0]]], whole_volume, Augmentation(OFF), 5).batch(0)[0][0, 0]
    assert image[10:].ne(plain[10:]).float().mean() > 0.99


@pytest.mark.slow
def test_a_training_on_translated_patches_resumes_to_the_same_bytes(
    task: TranslationTask, stops_after: Callable[[int], ProgressFile], tmp_path: Path
) -> None:
    inputs = prepared(task, tmp_path / "prepared", "random_contrast").inputs(tmp_path / "prepared")
    training = SourceTask(
        0, 1, BootstrapSample(("a",), ("b",)), [[task.source[0]]], [],
        ResidualUNetOptions(channels=(2, 2), encoder_blocks=(0, 1)),
        SourceTrainingOptions(networks=1, cycles=1, steps_per_cycle=5, warm_up=1), PATCHES, OFF,
        ComputingOptions(precision=Precision.FLOAT32), translation=inputs,
    )  # fmt: skip

    def weights(name: str, *stops: ProgressFile, **changes: Any) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir()
        own = replace(training, **changes)
        for stop in stops:
            with pytest.raises(StopRequestedError):
                train_source_network(tmp_path / name, stop, task=own, device="cpu")
        train_source_network(tmp_path / name, ProgressFile(tmp_path / "progress", saves=True), task=own, device="cpu")
        return load_tensors(tmp_path / name / "snapshot-00.safetensors")

    whole, stopped, plain = weights("whole"), weights("stopped", stops_after(3)), weights("plain", translation=None)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert not all(torch.equal(whole[name], plain[name]) for name in whole)


def plan(
    folder: Path, translate: object, *, folds: int | None = None, channels: tuple[str, ...] = ("T1",)
) -> StudyPlan:
    """Seven scans of the target, two of which are of a tested patient."""
    data = {"modality": "mr", "foreground": [1], "path": "data"}
    target = {"pool": 3, "test": 2} if folds is None else {"pool": 3, "folds": folds}
    config = StudyConfig.model_validate({
        "name": "s",
        "datasets": {"a": data, "b": data},
        "source": {"dataset": "a", "patients": 2, "translate": translate},
        "target": {"dataset": "b", **target},
        "target_training": {"arms": ["random"], "sizes": [2] if folds is None else []},
    })  # fmt: skip
    pool = {"p0": ("p0",), "p1": ("p1a", "p1b"), "p2": ("p2",)}
    split = Split({"t0": ("t0",)}, pool, {"t0": ("t0",), "t1": ("t1",)} if folds is None else pool)
    unlabelled = {"u0": ("u0",), "t1": ("t1_later",)}
    return StudyPlan(split, {}, {"a": channels, "b": ("FLAIR",)}, config, Workspace(folder), unlabelled=unlabelled)


def test_scans_of_pool_and_unlabelled_patients_are_used_and_of_nobody_who_is_tested(tmp_path: Path) -> None:
    # Another contrast is what a translation is for: names of channels may differ.
    assert target_patients(plan(tmp_path, "fourier")) == {"pool": ["p0", "p1", "p2"], "unlabelled": ["u0"]}
    assert target_patients(plan(tmp_path, "none")) == {}
    assert translation_unit(plan(tmp_path, "none")) is None


def test_too_few_scans_and_other_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"`source.translate: histogram` has 2 scans to learn from \(unlabelled, and"
    ) as no:
        target_patients(plan(tmp_path, "histogram", folds=3))
    assert "cross-validation tests everybody of the pool" in str(no.value)
    assert "random_contrast" in str(no.value)
    # Which needs none.
    assert target_patients(plan(tmp_path, "random_contrast", folds=3)) == {"unlabelled": ["u0", "t1"]}
    with pytest.raises(DataError, match=r"the source has the channels T1, T2, the target FLAIR"):
        target_patients(plan(tmp_path, "histogram", channels=("T1", "T2")))


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"`translate` is fourier, and a pack holds no images"):
        SourceOptions.model_validate({"pack": "a.pack", "translate": "fourier"})
    for bad in ("dreaming", {"kind": "fourier", "beta": 0.6}, {"kind": "histogram", "share": 0}):
        with pytest.raises(ValidationError):
            SourceOptions.model_validate({"dataset": "a", "patients": 2, "translate": bad})
