"""A prediction goes back to the grid on which its reference was drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import Case, ImageSource
from data.errors import WorkspaceError
from data.modality import Modality
from data.splits import Split
from data.volume import Volume, reorient, turned_like
from pipeline.config.study import StudyConfig
from pipeline.evaluation.case_evaluation import TrainedArm
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.native_space import NativeCase, in_native_space
from pipeline.evaluation.options import EvaluationOptions, EvaluationSpace
from pipeline.evaluation.tables import CaseRow
from pipeline.execution.progress import ProgressFile
from pipeline.metrics.overlap import count_voxels, dice
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.post_processing import ComponentRule, Kept
from pipeline.prediction.reading import ReadingOptions
from pipeline.stages.evaluate import ReadPrediction, evaluate_predictions, native_cases
from pipeline.stages.study_plan import StudyPlan
from pipeline.storage.atomic import write_json
from pipeline.storage.cached_case import ARRAYS, CachedCase
from pipeline.storage.tensors import save_arrays
from pipeline.storage.workspace import Workspace
from preprocessing.chain import Chain, PreprocessingOptions, default_options
from preprocessing.padding import PaddingOptions
from preprocessing.resampling import ResamplingOptions
from preprocessing.subject import load_subject

# Thick slices, axes stored backwards and away from the origin.
AFFINE = np.array([[-1.0, 0, 0, 30], [0, -1.2, 0, 20], [0, 0, 2.5, -10], [0, 0, 0, 1]])
SHAPE = (36, 30, 14)
CLASSES = {"core": (2, 5), "rim": (3,)}

Prepared = tuple[NativeCase, CachedCase]


def ball(affine: np.ndarray, shape: tuple[int, ...], centre: np.ndarray, radius: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return np.linalg.norm(world - centre, axis=-1) <= radius


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def label_map(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    centre = AFFINE[:3, :3] @ (np.array(SHAPE) / 2) + AFFINE[:3, 3]
    label = np.zeros(shape, np.int16)
    label[ball(affine, shape, centre, 9)] = 3
    label[ball(affine, shape, centre, 6)] = 2
    label[ball(affine, shape, centre, 3)] = 5
    return label


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Prepared]:
    def prepared(
        label_affine: np.ndarray = AFFINE,
        label_shape: tuple[int, ...] = SHAPE,
        options: PreprocessingOptions | None = None,
        stored: Callable[[Volume], Volume] = lambda label: label,
    ) -> Prepared:
        generator = np.random.default_rng(0)
        channels = {}
        for name, affine, shape in (("T1", AFFINE, SHAPE), ("T2", label_affine, label_shape)):
            image = generator.normal(0, 0.2, shape) + label_map(affine, shape)
            channels[name] = ImageSource(write(tmp_path / f"{name}.nii.gz", image.astype(np.float32), affine))
        label = stored(Volume(label_map(label_affine, label_shape), label_affine))
        drawn = write(tmp_path / "label.nii.gz", label.array, label.affine)
        case = Case("c", "p", channels, label=drawn)
        chosen = default_options(Modality.MR).model_copy(
            update={"resampling": ResamplingOptions(spacing=(1.5, 1.5, 1.5)), "padding": PaddingOptions(multiple=8)}
        )
        processed, records = Chain(chosen).apply(load_subject(case))
        assert processed.label is not None
        folder = tmp_path / "preprocess"
        about = {"affine": processed.reference.affine.tolist()}
        image = processed.reference.array[None].astype(np.float32)
        save_arrays(folder / ARRAYS, {"image": image, "label": processed.label.array}, about)
        write_json(folder / "record.json", records)
        return NativeCase(case, ("T1", "T2"), chosen, CLASSES), CachedCase("c", "p", folder, CLASSES)

    return prepared


def certain(cached: CachedCase) -> np.ndarray:
    """Probabilities `[K, X, Y, Z]` that know the label."""
    return np.stack([cached.label().numpy() == number for number in (1, 2)]).astype(np.float32)


def test_a_perfect_prediction_is_nearly_perfect_on_the_raw_grid(prepare: Callable[..., Prepared]) -> None:
    native, cached = prepare()
    prediction = certain(cached)
    assert prediction.shape[1:] != SHAPE
    carried, reference = in_native_space(prediction, cached.affine, native, cached.folder)
    assert carried.shape == reference.shape == SHAPE
    np.testing.assert_allclose(carried.affine, AFFINE, atol=1e-6)
    raw = label_map(AFFINE, SHAPE)
    # Values become class numbers, 2 and 5 one class; the reference is the label as drawn, voxel for voxel.
    np.testing.assert_array_equal(reference.array, np.select([np.isin(raw, (2, 5)), raw == 3], [1, 2]))
    for number in (1, 2):
        assert dice(count_voxels(carried.array == number, reference.array == number)) > 0.9


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "ASL", "SRA"])
@pytest.mark.parametrize("drawn_on", [(AFFINE, SHAPE), (np.diag([2.0, 2.0, 2.0, 1.0]), (20, 22, 20))])
def test_a_turned_label_off_by_rounding_is_met_on_its_own_grid_voxel_for_voxel(
    prepare: Callable[..., Prepared], orientation: str, drawn_on: tuple[np.ndarray, tuple[int, ...]]
) -> None:
    def turned(label: Volume) -> Volume:
        affine = label.affine.copy()
        affine[:3, 3] += 0.12
        return reorient(Volume(label.array, affine), orientation)

    native, cached = prepare(*drawn_on)
    prediction = certain(cached)
    carried, reference = in_native_space(prediction, cached.affine, native, cached.folder)
    native, cached = prepare(*drawn_on, stored=turned)
    np.testing.assert_array_equal(certain(cached), prediction)
    found, drawn = in_native_space(prediction, cached.affine, native, cached.folder)
    assert drawn.orientation == orientation
    np.testing.assert_array_equal(found.affine, drawn.affine)
    for new, old in ((found, carried), (drawn, reference)):
        np.testing.assert_array_equal(turned_like(new, old).array, old.array)


def test_a_shifted_prediction_is_shifted_on_the_raw_grid(prepare: Callable[..., Prepared]) -> None:
    native, cached = prepare()
    # The chain turned the axes to RAS: 4 voxels of 1.5 mm to the right are 6 voxels of 1 mm down the raw axis.
    shifted = np.roll(certain(cached), 4, axis=1)
    carried, reference = in_native_space(shifted, cached.affine, native, cached.folder)
    places = [np.argwhere(volume.array > 0).mean(axis=0) for volume in (carried, reference)]
    np.testing.assert_allclose(places[0] - places[1], [-6, 0, 0], atol=0.25)


def test_a_label_drawn_on_another_channel_is_met_on_its_own_grid(prepare: Callable[..., Prepared]) -> None:
    affine, shape = np.diag([2.0, 2.0, 2.0, 1.0]), (20, 22, 20)
    affine[:3, 3] = (-7.0, -17.0, -12.0)
    native, cached = prepare(affine, shape)
    carried, reference = in_native_space(certain(cached), cached.affine, native, cached.folder)
    assert reference.shape == carried.shape == shape
    np.testing.assert_array_equal(carried.affine, affine)
    assert dice(count_voxels(carried.array > 0, reference.array > 0)) > 0.9


def test_a_registered_channels_label_is_met_where_the_channel_was_moved_from(prepare: Callable[..., Prepared]) -> None:
    affine, shape = np.diag([2.0, 2.0, 2.0, 1.0]), (20, 22, 20)
    affine[:3, 3] = (-7.0, -17.0, -12.0)
    native, cached = prepare(affine, shape)
    prediction = certain(cached)
    still, _ = in_native_space(prediction, cached.affine, native, cached.folder)
    # As if coregistration had found T2 to lie 4 mm too far to the right: reference world + 4 mm = T2's world.
    matrix = np.eye(4)
    matrix[0, 3] = 4.0
    records = json.loads((cached.folder / "record.json").read_text())
    place = 1 + [record["step"] for record in records].index("canonical_orientation")
    fact = {"step": "coregistration", "suspect": [], "channels": {"T2": {"moved": True, "matrix": matrix.tolist()}}}
    (cached.folder / "record.json").write_text(json.dumps([*records[:place], fact, *records[place:]]))
    chain = native.preprocessing.model_dump() | {"coregistration": {}}
    moved = replace(native, preprocessing=PreprocessingOptions.model_validate(chain))
    carried, reference = in_native_space(prediction, cached.affine, moved, cached.folder)
    places = [np.argwhere(v.array > 0).mean(axis=0) for v in (carried, still)]
    np.testing.assert_allclose((places[0] - places[1]) * 2.0, [4, 0, 0], atol=0.3)
    assert reference.shape == shape


def test_a_raw_label_that_is_gone_is_named_with_the_key_that_does_without(prepare: Callable[..., Prepared]) -> None:
    native, cached = prepare()
    assert native.case.label is not None
    native.case.label.unlink()
    with pytest.raises(WorkspaceError, match=r"label\.nii\.gz.*--set evaluation\.space=preprocessed"):
        in_native_space(certain(cached), cached.affine, native, cached.folder)


def test_the_mask_is_made_on_the_raw_grid_by_the_thresholds(prepare: Callable[..., Prepared]) -> None:
    native, cached = prepare()
    faint = 0.4 * certain(cached)
    nothing, _ = in_native_space(faint, cached.affine, native, cached.folder)
    found, reference = in_native_space(faint, cached.affine, native, cached.folder, (0.2, 0.2))
    assert not nothing.array.any()
    for number in (1, 2):
        assert dice(count_voxels(found.array == number, reference.array == number)) > 0.9


def test_the_stage_measures_the_mask_that_the_arm_reads(
    prepare: Callable[..., Prepared], store_prediction: Callable[..., Path], tmp_path: Path
) -> None:
    native, cached = prepare()
    scores = []
    # Where nothing is most probable, the mask of the best expected Dice is empty, too; so a little is certain.
    faint = (0.45 * certain(cached)).astype(np.float32)
    for k, own in enumerate(faint):
        faint[k][tuple(np.argwhere(own > 0)[:1].T)] = 0.9
    store_prediction(tmp_path / "predictions", faint, affine=cached.affine, classes=tuple(cached.classes))
    for name in MaskRule:
        evaluate_predictions(
            tmp_path / f"out-{name}", ProgressFile(tmp_path / "progress"),
            tested=[(ReadPrediction("fold", tmp_path / "predictions", ReadingOptions(mask=name)), cached)],
            inner_folds=[], learned_from=[], trained=TrainedArm("random", 5, 0), native={"c": native},
            options=EvaluationOptions(calibration=None), seed=0,
        )  # fmt: skip
        scores.append([row.dice for row in read_rows(tmp_path / f"out-{name}" / "cases.csv", CaseRow)])
    assert max(scores[0]) < 0.2
    assert min(scores[1]) > 0.8


@pytest.mark.parametrize("space", ["native", "preprocessed"])
def test_the_stage_measures_the_mask_after_post_processing(
    prepare: Callable[..., Prepared], store_prediction: Callable[..., Path], tmp_path: Path, space: str
) -> None:
    native, cached = prepare()
    certainly = certain(cached)
    certainly[0, 1:4, 1:4, 1:4] = certainly[1, -4:-1, 1:4, 1:4] = 1.0
    store_prediction(tmp_path / "predictions", certainly, affine=cached.affine, classes=tuple(cached.classes))
    rules = {"core": ComponentRule(keep=Kept.LARGEST), "rim": ComponentRule(minimum_volume=10)}
    distances = {}
    for name, reading in (("plain", ReadingOptions()), ("kept", ReadingOptions(post_processing=rules))):
        evaluate_predictions(
            tmp_path / name, ProgressFile(tmp_path / "progress"),
            tested=[(ReadPrediction("fold", tmp_path / "predictions", reading), cached)],
            inner_folds=[], learned_from=[], trained=TrainedArm("random", 5, 0),
            native={"c": native} if space == "native" else {}, options=EvaluationOptions(calibration=None), seed=0,
        )  # fmt: skip
        distances[name] = {
            row.label: row.average_surface_distance for row in read_rows(tmp_path / name / "cases.csv", CaseRow)
        }
    assert distances["kept"]["core"] < distances["plain"]["core"] / 2
    # 27 voxels of 3.4 mm³ are more than 10 mm³.
    assert distances["kept"]["rim"] == distances["plain"]["rim"]


def test_a_missing_record_is_named(prepare: Callable[..., Prepared]) -> None:
    native, cached = prepare()
    (cached.folder / "record.json").write_text("[")
    with pytest.raises(WorkspaceError, match=r"record\.json.*preprocess"):
        in_native_space(certain(cached), cached.affine, native, cached.folder)


def study(tmp_path: Path, space: str) -> tuple[StudyConfig, Workspace, StudyPlan]:
    """A study whose workspace was carried to a machine without the raw scans."""
    raw = {"path": str(tmp_path / "not-here"), "modality": "mr", "foreground": [1]}
    config = StudyConfig.model_validate(
        {
            "name": "carried", "datasets": {"a": raw, "b": raw}, "evaluation": {"space": space},
            "source": {"dataset": "a", "patients": 2}, "target": {"dataset": "b", "pool": 10, "test": 1},
        }
    )  # fmt: skip
    workspace = Workspace(tmp_path / "workspace")
    split = Split({"s": ["s"]}, {"t": ["t"]}, {"u": ["u"]})
    return config, workspace, StudyPlan(split, {"b": CLASSES}, {"b": ["T1"]}, config, workspace)


def test_a_carried_workspace_is_told_which_key_does_without_the_scans(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"`evaluation\.space` is `native`.*not-here.*evaluation\.space=preproc"):
        native_cases(*study(tmp_path, "native"))
    assert native_cases(*study(tmp_path, "preprocessed")) == {}


def test_native_space_is_the_default() -> None:
    assert EvaluationOptions().space is EvaluationSpace.NATIVE
