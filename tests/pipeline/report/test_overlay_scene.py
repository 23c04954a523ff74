from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data.errors import WorkspaceError
from pipeline.arms.arm_record import PREDICTIONS, ArmRecord
from pipeline.arms.choices import ArmOptions
from pipeline.evaluation.tables import CaseRow
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.reading import ReadingOptions
from pipeline.report.case_scene import read_case
from pipeline.report.figure_style import PREDICTION, REFERENCE
from pipeline.report.overlay_figure import PLANES, Scene, slice_figure
from pipeline.report.shown_arms import best_median_worst, ranked_cases
from pipeline.report.study_files import InferredUnit
from pipeline.storage.tensors import save_arrays

SHAPE, SPACING = (9, 11, 13), np.array([1.0, 2.0, 3.0])
CODES = ["".join(c) for c in itertools.product("RL", "AP", "SI")] + ["SAR", "PIL"]


def ras_scene() -> tuple[np.ndarray, np.ndarray]:
    reference = np.zeros(SHAPE, np.int16)
    reference[1:3, 2:6, 8:10] = 1
    reference[2, 2:7, 7:11] = 1  # sagittal slice 2 is the largest
    return np.random.default_rng(0).random(SHAPE).astype(np.float32), reference


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_shows_the_same_scene(code: str) -> None:
    image, reference = ras_scene()
    affine = np.diag([*SPACING, 1.0])
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code))
    turned = [nib.orientations.apply_orientation(m, turn) for m in (image, reference)]
    turned_affine = affine @ nib.orientations.inv_ornt_aff(turn, SHAPE)
    assert "".join(nib.aff2axcodes(turned_affine)) == code
    scene = Scene.oriented(turned[0], turned[1], turned[1], turned[0], turned_affine)
    np.testing.assert_array_equal(scene.image, image)
    np.testing.assert_array_equal(scene.reference, reference)
    np.testing.assert_array_equal(scene.entropy, image)
    np.testing.assert_allclose(scene.spacing, SPACING)
    # Voxels stay where they were in the world.
    np.testing.assert_allclose(scene.affine, affine, atol=1e-12)
    assert scene.centre().tolist() == [2, 2, 8]


def test_empty_reference_falls_back_to_the_prediction_then_to_the_middle() -> None:
    image, mask = ras_scene()
    none = np.zeros_like(mask)
    affine = np.diag([*SPACING, 1.0])
    assert Scene.oriented(image, none, mask, image, affine).centre()[0] == 2
    assert Scene.oriented(image, none, none, image, affine).centre().tolist() == [4, 5, 6]


def drawn(scene: Scene, plane: str) -> np.ndarray:
    figure = slice_figure(scene, plane, margin=2.0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def shows(picture: np.ndarray, colour: str) -> bool:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(picture - rgb).max(axis=-1) < 12).sum() > 10)


@pytest.mark.parametrize("plane", PLANES)
def test_both_contours_are_drawn_where_there_is_something(plane: str) -> None:
    image, reference = ras_scene()
    prediction = np.roll(reference, 1, axis=2)
    none = np.zeros_like(reference)
    affine = np.diag([*SPACING, 1.0])
    both = drawn(Scene.oriented(image, reference, prediction, image, affine), plane)
    assert both.shape[0] == both.shape[1]
    assert shows(both, REFERENCE)
    assert shows(both, PREDICTION)
    missed = drawn(Scene.oriented(image, reference, none, image, affine), plane)
    assert shows(missed, REFERENCE)
    assert not shows(missed, PREDICTION)


def test_cases_are_ranked_by_dice_over_labels() -> None:
    values = {"a": 0.9, "b": 0.7, "c": 0.2, "d": 0.5, "gone": 0.99, "undefined": float("nan")}
    rows = [CaseRow("dwp", 5, 0, case, case, "core", value, value) for case, value in values.items()]
    available = set(values) - {"gone"}
    assert best_median_worst(ranked_cases(rows, available)) == [("best", "a"), ("median", "b"), ("worst", "c")]
    assert best_median_worst(ranked_cases(rows, {"b"})) == [("best", "b")]
    assert best_median_worst(ranked_cases(rows, set())) == []


def test_entropy_is_largest_where_all_classes_are_equally_probable(
    tmp_path: Path, store_prediction: Callable[..., Path]
) -> None:
    probability = np.array([[1 / 3, 0.0, 0.5], [1 / 3, 0.0, 0.5]], np.float32).reshape(2, 3, 1, 1)
    arrays = {"image": np.zeros((1, 3, 1, 1), np.float32), "label": np.zeros((3, 1, 1), np.int16)}
    save_arrays(tmp_path / "a.safetensors", arrays, {"affine": np.eye(4).tolist()})
    read = read_case(tmp_path / "a.safetensors", store_prediction(tmp_path, probability), {}, ReadingOptions())
    expected = [1.0, 0.0, np.log(2) / np.log(3)]
    np.testing.assert_allclose(read.scene.entropy.ravel(), expected, atol=1e-3)


def test_classes_are_joined_by_name_whatever_their_values(
    tmp_path: Path, store_prediction: Callable[..., Path]
) -> None:
    label = np.zeros(SHAPE, np.int16)
    label[0], label[1], label[2] = 7, 3, 4
    about = {"affine": np.diag([*SPACING, 1.0]).tolist(), "channels": ["T1"]}
    save_arrays(tmp_path / "a.safetensors", {"image": label[None].astype(np.float32), "label": label}, about)
    probability = np.stack([np.isin(label, [3, 4]), label == 7]).astype(np.float32)
    stored = store_prediction(tmp_path, probability, classes=("rim", "core"))
    classes = {"core": [7], "rim": [3, 4]}
    read = read_case(tmp_path / "a.safetensors", stored, classes, ReadingOptions())
    scene = read.scene
    assert (read.channel, read.overlap, read.classes, read.draws) == ("T1", 1.0, ("rim", "core"), 1)
    np.testing.assert_array_equal(scene.reference, scene.prediction)
    assert np.unique(scene.reference).tolist() == [0, 1, 2]


def test_the_mask_shown_is_the_one_that_was_measured(tmp_path: Path, store_prediction: Callable[..., Path]) -> None:
    label = np.ones(SHAPE, np.int16)
    about = {"affine": np.diag([*SPACING, 1.0]).tolist(), "channels": ["T1"]}
    save_arrays(tmp_path / "a.safetensors", {"image": label[None].astype(np.float32), "label": label}, about)
    probability = np.full((1, *SHAPE), 0.45, np.float32)
    probability[0, :2] = 0.9
    stored = store_prediction(tmp_path, probability, affine=np.diag([*SPACING, 1.0]))
    shown = [read_case(tmp_path / "a.safetensors", stored, {}, ReadingOptions(mask=rule)).overlap for rule in MaskRule]
    assert shown[0] < 1.0 == shown[1]


def test_what_post_processing_removes_is_not_shown(tmp_path: Path, store_prediction: Callable[..., Path]) -> None:
    label = np.zeros(SHAPE, np.int16)
    label[:2] = 1
    about = {"affine": np.diag([*SPACING, 1.0]).tolist(), "channels": ["T1"]}
    save_arrays(tmp_path / "a.safetensors", {"image": label[None].astype(np.float32), "label": label}, about)
    probability = label[None].astype(np.float32)
    probability[0, -1, 0, 0] = 0.9
    stored = store_prediction(tmp_path, probability, affine=np.diag([*SPACING, 1.0]), classes=("core",))
    rules = ReadingOptions(post_processing={"core": ComponentRule(keep=Kept.LARGEST)})
    shown = [read_case(tmp_path / "a.safetensors", stored, {}, reading) for reading in (ReadingOptions(), rules)]
    assert [int(read.scene.prediction.sum() - label.sum()) for read in shown] == [1, 0]
    assert shown[0].overlap < 1.0 == shown[1].overlap
    # The uncertainty is that of the probabilities.
    np.testing.assert_array_equal(shown[0].scene.entropy, shown[1].scene.entropy)


def test_a_case_is_read_as_the_fold_that_it_was_tested_in(
    tmp_path: Path, store_prediction: Callable[..., Path]
) -> None:
    for fold, case in (("one", "a"), ("two", "b")):
        store_prediction(tmp_path / PREDICTIONS / fold, np.zeros((1, 3, 3, 3), np.float32), case=case)
    readings = (ReadingOptions(), ReadingOptions(post_processing={"core": ComponentRule(minimum_volume=9)}))
    record = ArmRecord(
        arm="dwp", n=4, repeat=0, patients=(), steps=1, choices=ArmOptions(logit_temperature=3.0), objective="none",
        trainings=(), predictions=("one", "two"), readings=readings,
    )  # fmt: skip
    found = InferredUnit(tmp_path, record).predictions()
    assert {case: kept.reading for case, kept in found.items()} == dict(zip("ab", readings, strict=True))
    assert [kept.path.parent.name for kept in found.values()] == ["one", "two"]


def test_grids_that_differ_are_refused(tmp_path: Path, store_prediction: Callable[..., Path]) -> None:
    about = {"affine": np.eye(4).tolist(), "channels": ["T1"]}
    arrays = {"image": np.zeros((1, 3, 3, 3), np.float32), "label": np.zeros((3, 3, 3), np.int16)}
    save_arrays(tmp_path / "a.safetensors", arrays, about)
    stored = store_prediction(tmp_path, np.zeros((1, 3, 3, 4), np.float32))
    with pytest.raises(WorkspaceError, match="grid"):
        read_case(tmp_path / "a.safetensors", stored, {}, ReadingOptions())
    save_arrays(stored, {"entropy": np.zeros((3, 3, 3), np.float16)})
    with pytest.raises(WorkspaceError, match="stored prediction"):
        read_case(tmp_path / "a.safetensors", stored, {}, ReadingOptions())


def blob_scene(*, masked: bool, fog: float) -> Scene:
    """A head of tissue in air, with a structure in it, and a prediction far from the head."""
    generator = np.random.default_rng(0)
    head = np.zeros((30, 30, 30), bool)
    head[5:25, 5:25, 5:25] = True
    image = np.where(head, 100.0, 0.0) + generator.normal(0, 1, head.shape)
    if masked:
        image = np.where(head, image, np.nan)
    structure = np.zeros(head.shape, np.int16)
    structure[12:16, 12:16, 12:16] = 1
    prediction = structure.copy()
    prediction[1:3, 1:3, 1:3] = 1
    entropy = np.full(head.shape, fog) + 0.5 * structure
    return Scene(image, structure, prediction, entropy, np.eye(4))


@pytest.mark.parametrize("masked", [True, False])
def test_uncertainty_is_shown_inside_the_anatomy_and_where_something_was_predicted(masked: bool) -> None:
    scene = blob_scene(masked=masked, fog=0.3)
    assert scene.tissue[8, 8, 8]
    assert not scene.tissue[0, 15, 15]
    assert scene.tissue[1, 1, 1]


def test_an_uncertainty_that_is_everywhere_alike_is_not_drawn_as_fog() -> None:
    low, high = blob_scene(masked=True, fog=0.3).entropy_window
    assert low == pytest.approx(0.3)
    assert high == pytest.approx(0.8)
    sure = Scene(*(np.zeros((4, 4, 4)) for _ in range(4)), np.eye(4))
    assert sure.entropy_window == (0.0, pytest.approx(0.1))


@pytest.mark.parametrize(("everywhere", "window"), [(0.93, (0.93, 1.0)), (1.0, (0.99, 1.0))])
def test_no_uncertainty_is_drawn_above_the_largest_there_can_be(everywhere: float, window: tuple[float, float]) -> None:
    empty = np.zeros((4, 4, 4))
    unsure = Scene(empty, empty, empty, np.full((4, 4, 4), everywhere), np.eye(4))
    assert unsure.entropy_window == pytest.approx(window)


def test_radiological_display_mirrors_all_planes_but_the_sagittal_and_the_letters_with_them() -> None:
    scene = blob_scene(masked=True, fog=0.3)
    for plane in PLANES:
        shown = []
        for radiological in (False, True):
            figure = slice_figure(scene, plane, 2.0, radiological=radiological)
            (axes,) = figure.axes
            letters = {text.get_text(): text.get_position()[0] for text in axes.texts}
            left = min((letter for letter in letters if letter in set("LRPA")), key=lambda letter: letters[letter])
            shown.append((left, axes.xaxis_inverted()))
        assert shown == ([("P", False)] * 2 if plane == "sagittal" else [("L", False), ("R", True)])


def test_the_map_of_uncertainty_says_what_black_and_white_mean() -> None:
    figure = slice_figure(blob_scene(masked=True, fog=0.3), "axial", 2.0, entropy=True)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"30 %", "80 %"} <= set(words)
