"""Voxels that nobody annotated: from the configuration to losses, metrics, fits and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.checks.battery import check_dataset
from data.checks.finding import Level
from data.dataset import Dataset
from data.errors import DataError
from data.image_file import read_label, write_volume
from data.layouts.detection import read_dataset
from data.volume import Volume
from models.heads import IGNORED, MOST_REGIONS, Heads
from pipeline.config.datasets import DatasetOptions
from pipeline.deployment.arm_model import DicePairs
from pipeline.deployment.fingerprint import cached_facts
from pipeline.evaluation.arm_calibration import CalibrationCase, possible_in
from pipeline.evaluation.calibration import band_sample
from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.fitted_masks import ReadMasks
from pipeline.evaluation.label_audit import audit_case
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.temperature_scaling import fit_temperature
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import ReadPrediction
from pipeline.report.shown_labels import ShownLabels
from pipeline.stages.preprocess import preprocess_case
from pipeline.storage.cached_case import CachedCase
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.patches import PatchOptions, PatchSampler
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.cropping import Cropping, CroppingOptions
from preprocessing.padding import PaddingOptions
from preprocessing.quality_control import case_picture
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import Subject

OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
MakeCase = Callable[..., CachedCase]


def half_ignored(make_case: MakeCase, **changes) -> CachedCase:
    """A case whose cube is known, and whose far half is not."""
    label = np.zeros((16, 16, 16), np.int16)
    label[4:9, 5:10, 6:11] = 1
    label[10:] = 255
    return replace(make_case(label=label, **changes), ignored=(255,))


def test_a_case_knows_what_is_annotated(make_case: MakeCase) -> None:
    case = half_ignored(make_case)
    codes = case.label()
    assert codes.unique().tolist() == [IGNORED, 0, 1]
    assert (codes[10:] == IGNORED).all()
    assert case.annotated_voxels == 10 * 16 * 16
    assert len(case.foreground) == 5**3
    # So is what a patch adds around a volume.
    _, around = case.patch(np.array([-2, -4, 0]), (8, 8, 18))
    assert (around[:2] == IGNORED).all()
    assert (around[:, :4] == IGNORED).all()
    assert (around[:, :, 16:] == IGNORED).all()
    assert torch.equal(around[2:, 4:, :16], codes[:6, :4])


def test_the_objective_counts_annotated_voxels_and_no_patch_is_centred_elsewhere(make_case: MakeCase) -> None:
    patches = PatchOptions(size=(1, 1, 1), batch=4, foreground_share=1.0)
    sampler = PatchSampler([[half_ignored(make_case)], [make_case("other")]], patches, Augmentation(OFF), 0)
    assert sampler.voxels == 10 * 16 * 16 + 16**3
    assert all((sampler.batch(step)[1] == 1).all() for step in range(8))


@pytest.mark.parametrize("codes", [(IGNORED, 0, 1), (IGNORED, 0, 1, 5, 2**15 - 1)])
def test_augmentation_makes_no_new_codes(codes: Sequence[int]) -> None:
    strong = AugmentationOptions(affine=1, elastic=1, flip_axes=(0, 1, 2), rotation=90, scaling=0.3)
    label = torch.from_numpy(np.random.default_rng(0).choice(codes, (10, 10, 10)))
    for seed in range(4):
        _, moved = Augmentation(strong)(torch.randn(1, 10, 10, 10), label, seed)
        assert set(moved.unique().tolist()) <= set(codes)
        assert (moved == IGNORED).any()


def test_no_metric_counts_what_is_not_annotated() -> None:
    reference = np.zeros((12, 10, 8), np.int64)
    reference[2:5, 2:6, 2:6] = 1
    prediction = np.zeros_like(reference)
    prediction[3:10, 2:6, 2:6] = 1
    partly = reference.copy()
    partly[6:] = IGNORED
    options = EvaluationOptions(lesions={})
    given = {"trained": TrainedArm("a", 1, 0), "case": "c", "patient": "p", "options": options}
    [row] = evaluate_case(prediction, partly, {"cube": 1}, (1, 1, 1), **given)
    assert (row.tp, row.fp, row.fn) == (2 * 16, 16, 16)
    # The same as if nothing had been predicted there.
    prediction[6:] = 0
    [expected] = evaluate_case(prediction, reference, {"cube": 1}, (1, 1, 1), **given)
    assert row == expected
    prediction[8:] = 1
    assert evaluate_case(prediction, partly, {"cube": 1}, (1, 1, 1), **given) == [expected]


def read_case_of(
    probability: np.ndarray, reference: np.ndarray, heads: Heads, labels: Sequence[str]
) -> CalibrationCase:
    prediction = np.zeros(reference.shape, np.int64)
    for number, own in enumerate(probability, start=1):
        prediction += heads.code(number) * (own > 0.5)
    return CalibrationCase(
        "c", "p", labels, (1.0, 1.0, 1.0), probability, prediction, reference, None, None, 1, heads=heads
    )


@pytest.mark.parametrize("heads", Heads)
def test_nothing_that_is_fitted_sees_what_is_not_annotated(heads: Heads) -> None:
    generator = np.random.default_rng(0)
    probability = generator.random((1, 14, 12, 10)).astype(np.float32)
    reference = (generator.random((14, 12, 10)) < 0.5).astype(np.int64)
    reference[8:] = IGNORED
    found = []
    for elsewhere in (0.01, 0.99):
        probability[:, 9:] = elsewhere
        case = read_case_of(probability.copy(), reference, heads, ["cube"])
        sample = band_sample(
            case.probability, case.prediction, reference, (1, 1, 1), case="c", patient="p", band=5, clamp=1e-3,
            heads=heads,
        )  # fmt: skip
        possible = possible_in(case, 1, 1e-3)
        [audit] = audit_case(case, TrainedArm("a", 1, 0), "key", 1e-3)
        pieces = ReadMasks.of(ReadingOptions(), [case]).scores()
        found.append(
            (
                fit_temperature([sample]),
                len(sample.classes),
                sample.outside,
                possible.own.sum(),
                possible.reference,
                audit.surprise,
                audit.left_out_ml,
                audit.extra_ml,
                pieces,
            )
        )
    assert found[0] == found[1]
    assert found[0][1] <= 8 * 12 * 10


def test_the_fit_of_the_dice_compares_annotated_voxels(make_case: MakeCase) -> None:
    case = half_ignored(make_case)
    p = torch.full((2, *case.shape), 0.1)
    p[1, 4:9, 5:10, 6:11] = 0.8
    pairs = []
    for elsewhere in (0.1, 0.9):
        p[1, 10:] = elsewhere
        p[0] = 1 - p[1]
        own = DicePairs()
        own.add(ReadPrediction(p.clone(), None, None), case)
        pairs.append(own)
    assert pairs[0] == pairs[1]
    assert pairs[0].real == {"cube": [1.0]}


def test_volumes_of_partly_annotated_structures_set_no_range(make_case: MakeCase) -> None:
    assert cached_facts(make_case("whole"), ["T1"]).structure_ml["cube"] > 0
    assert cached_facts(half_ignored(make_case), ["T1"]).structure_ml == {}


def subject(label: np.ndarray, **changes) -> Subject:
    image = np.random.default_rng(0).normal(100, 10, label.shape).astype(np.float32)
    return Subject("c", {"T1": Volume(image, np.eye(4))}, Volume(label, np.eye(4)), ignored=(255,), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [(), (255,)])
def test_padding_of_preprocessing_is_not_annotated(
    ignored: tuple[int, ...], tmp_path: Path, write_cohort: Callable
) -> None:
    dataset = read_dataset(write_cohort(tmp_path / "cohort", cases=1))
    [case] = dataset.cases
    cases = []
    for name, padding in (("plain", None), ("padded", PaddingOptions(multiple=16))):
        folder = tmp_path / name
        folder.mkdir()
        preprocess_case(
            folder,
            ProgressFile(tmp_path / "progress"),
            case=case,
            channels=list(case.channels),
            options=PreprocessingOptions(resampling=ResamplingOptions(spacing=(3, 3, 3)), padding=padding),
            ignored=ignored,
        )
        cases.append(CachedCase("c", "c", folder, {"left": (1,)}, ignored))
    plain, padded = cases
    room = [(large - small) for large, small in zip(padded.shape, plain.shape, strict=True)]
    assert any(room)
    width = [(own // 2, own - own // 2) for own in room]
    expected = np.pad(plain.label().numpy(), width, constant_values=IGNORED)
    assert np.array_equal(padded.label().numpy(), expected)
    assert padded.annotated_voxels == plain.annotated_voxels == np.prod(plain.shape)
    _, label = padded.patch(np.array([-2, 1, 0]), padded.shape)
    assert np.array_equal(label[2:, :-1].numpy(), expected[:-2, 1:])
    assert (label[:2] == IGNORED).all()
    # Structures of a padded case are whole.
    facts = [cached_facts(own, list(case.channels)) for own in cases]
    assert facts[0].structure_ml == facts[1].structure_ml != {}


def test_the_largest_share_of_a_new_voxel_decides() -> None:
    label = np.zeros((12, 10, 8), np.int16)
    label[6:] = 255
    # 2 mm voxels; the border between known and unknown lies between two of them.
    options = PreprocessingOptions(resampling=ResamplingOptions(spacing=(2, 2, 2)), padding=PaddingOptions(multiple=8))
    processed, records = Chain(options).apply(subject(label))
    assert processed.ignored == (255,)
    assert processed.label is not None
    found = processed.label.array
    assert found.shape == (8, 8, 8)
    assert (found[4:7, 2:6, 2:6] == 255).all()
    assert not found[:4].any()
    assert not found[7].any()
    assert not any(record["suspect"] for record in records)


def test_cropping_minds_structures_not_what_is_unknown() -> None:
    label = np.full((12, 10, 8), 255, np.int16)
    mask = np.zeros((12, 10, 8), np.uint8)
    mask[4:8, 3:7, 2:6] = 1
    crop = Cropping(CroppingOptions(margin=0))
    _, record = crop.apply(subject(label, mask=Volume(mask, np.eye(4))))
    assert record["suspect"] == []
    label[0] = 1
    _, record = crop.apply(subject(label, mask=Volume(mask, np.eye(4))))
    assert record["suspect"] == ["80 labelled voxels lie outside the content and were cut off"]


def test_the_picture_of_a_case_outlines_what_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        "preprocessing.quality_control.row_title", lambda what, drawn: titles.append(str(drawn)) or what
    )
    label = np.zeros((12, 10, 8), np.int16)
    label[2:4, 2:6, 2:6] = 1
    case_picture(subject(label), subject(label), [], tmp_path / "known.png")
    label[8:] = 255
    case_picture(subject(label), subject(label), [], tmp_path / "partly.png")
    assert titles == ["['label']"] * 2 + ["['label', 'not annotated']"] * 2


def options(**changes) -> DatasetOptions:
    given = {"path": "x", "modality": "mr", "foreground": ["anterior"], "preprocessing": {}} | changes
    return DatasetOptions.model_validate(given)


@pytest.fixture
def dataset(tmp_path: Path, write_cohort: Callable) -> Dataset:
    return read_dataset(write_cohort(tmp_path / "cohort", cases=2))


@pytest.mark.parametrize(("ignore", "values"), [(255, [255]), ("Right", [2]), ([2, 255], [2, 255]), ([], [])])
def test_a_study_names_what_it_ignores(dataset: Dataset, ignore: object, values: list[int]) -> None:
    assert options(foreground=["left"], ignore=ignore).ignored_values(dataset) == values


@pytest.mark.parametrize(
    ("ignore", "message"),
    [
        ("middle", "label 'middle' of `ignore` is not declared"),
        (1, "label 1 of `ignore` belongs to the foreground"),
        ("left", "label 'left' of `ignore` belongs to the foreground"),
        (0, "label 0 of `ignore` is the background"),
        (40000, "label 40000 of `ignore` cannot be in a label map"),
        (-1, "label -1 of `ignore` cannot be in a label map"),
    ],
)
def test_what_cannot_be_ignored_is_refused(dataset: Dataset, ignore: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        options(foreground=["left"], ignore=ignore).ignored_values(dataset)


def test_too_many_overlapping_classes_are_refused(dataset: Dataset) -> None:
    classes = {f"class {k}": [1] for k in range(MOST_REGIONS + 1)}
    with pytest.raises(DataError, match=f"`foreground` has {MOST_REGIONS + 1} classes, and some of them overlap"):
        options(foreground=classes).class_values(dataset)
    assert len(options(foreground=dict(list(classes.items())[1:])).class_values(dataset)) == MOST_REGIONS


def test_checks_tell_the_share_and_refuse_a_case_without_annotation(dataset: Dataset) -> None:
    first, second = (case.label for case in dataset.cases)
    assert first is not None
    assert second is not None
    label = read_label(first)
    partly = label.array.astype(np.uint8)
    partly[:9] = 255
    write_volume(label.with_array(partly), first)
    write_volume(label.with_array(np.full_like(partly, 255)), second)
    findings = check_dataset(dataset, foreground=[1, 2], ignored=[255]).findings
    found = {(own.level, own.case): own.found for own in findings if own.check == "annotation"}
    assert found == {
        (Level.INFO, "case_0"): "label: 50 % of the voxels are not annotated and will be ignored",
        (Level.ERROR, "case_1"): "label: no voxel is annotated: all are 255, which is ignored",
    }
    assert not [own for own in findings if own.check in ("label_values", "empty_label")]
    undeclared = [own for own in check_dataset(dataset).findings if own.check == "label_values"]
    assert len(undeclared) == 2
    assert "name them in `ignore` of the study" in undeclared[0].fix


def test_a_label_that_a_dataset_calls_ignore_needs_no_key(dataset: Dataset) -> None:
    about = json.loads((dataset.root / "dataset.json").read_text())
    about["labels"]["255"] = "ignore"
    (dataset.root / "dataset.json").write_text(json.dumps(about))
    again = read_dataset(dataset.root)
    assert options(foreground=["left"]).ignored_values(again) == [255]
    assert again.ignored == (255,)


def test_values_of_the_viewer_have_names() -> None:
    exclusive = ShownLabels(["a", "b"], Heads.EXCLUSIVE)
    assert exclusive.numbers(np.array([[[0, 2, 1]]])).ravel().tolist() == [0, 2, 1]
    assert (exclusive.names, exclusive.ignored) == (["a", "b"], 0)
    assert exclusive.numbers(np.array([IGNORED, 0])).tolist() == [3, 0]
    assert (exclusive.names, exclusive.ignored) == (["a", "b", "not annotated"], 3)
    overlapping = ShownLabels(["whole", "core", "rim"], Heads.OVERLAPPING)
    assert overlapping.numbers(np.array([0, 1, 3, 7, 1])).tolist() == [0, 1, 2, 3, 1]
    assert overlapping.names == ["whole", "whole and core", "whole and core and rim"]
