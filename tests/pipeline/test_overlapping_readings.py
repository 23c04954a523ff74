"""Calibration, fits, post-processing and files of overlapping structures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import Dataset
from data.image_file import write_volume
from data.layouts.detection import read_dataset
from data.volume import Volume
from models.heads import Heads
from models.networks.weight_transfer import start_from_source
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.training_unit import TrainingTask
from pipeline.deployment.bids_derivative import _shown
from pipeline.deployment.case_files import CaseFiles
from pipeline.deployment.model_description import label_values
from pipeline.evaluation.arm_calibration import ArmCalibration, CalibrationCase
from pipeline.evaluation.calibration import band_sample, class_probabilities
from pipeline.evaluation.case_evaluation import TrainedArm, evaluate_case
from pipeline.evaluation.case_review import predicted_uncertainty
from pipeline.evaluation.fitted_reading import fitted_reading
from pipeline.evaluation.options import CalibrationOptions, EvaluationOptions
from pipeline.evaluation.temperature_scaling import scale
from pipeline.planning.grid_dice import best_dice
from pipeline.planning.structures import drawn_structures, named_structures
from pipeline.prediction.post_processing import ComponentRule, Kept, keep_components
from pipeline.prediction.reading import ReadingOptions
from pipeline.report.case_scene import read_case

OVERLAPPING = Heads.OVERLAPPING
SHAPE = (24, 24, 24)
OPTIONS = CalibrationOptions(band=3.0, clamp=1e-9)


def overconfident(number: int, temperature: float) -> CalibrationCase:
    """Two balls, one in the other, drawn from probabilities that are softer by a temperature than those predicted."""
    generator = np.random.default_rng(number)
    distance = np.linalg.norm(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - 12, axis=-1)
    honest = np.stack([(radius - distance) / 1.5 for radius in (8, 5)])
    held = generator.uniform(size=honest.shape) < 1 / (1 + np.exp(-honest))
    probability = 1 / (1 + np.exp(-honest * temperature))
    sums = np.array([1, 2])[:, None, None, None]
    return CalibrationCase(
        f"c{number}", f"p{number}", ("whole", "core"), (1.0, 1.0, 1.0), probability,
        (sums * (probability > 0.5)).sum(axis=0), (sums * held).sum(axis=0), None, None, 1, heads=OVERLAPPING,
    )  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_one_temperature_is_found_for_all_structures(temperature: float) -> None:
    cases = [overconfident(number, temperature) for number in range(4)]
    declared = ReadingOptions(logit_temperature=9.0, voxel_correlation=0.5)
    found = fitted_reading(declared, cases, OPTIONS)
    assert found.logit_temperature == pytest.approx(temperature, rel=0.05)
    # The voxels of these references are drawn one by one.
    assert found.voxel_correlation is not None
    assert found.voxel_correlation < 0.05
    again = cases[0].read_again(found)
    honest = 1 / (1 + np.exp(-np.log(cases[0].probability / (1 - cases[0].probability)) / temperature))
    np.testing.assert_allclose(again.foreground.numpy(), honest, atol=0.03)


def test_each_structure_is_calibrated_against_its_own_truth() -> None:
    case = overconfident(0, 1.0)
    sample = case.near_boundary(OPTIONS)
    for number in (1, 2):
        probability, truth = sample.of_class(number)
        assert len(truth) == sample.near[number - 1].sum()
        assert abs(float(probability.mean() - truth.mean())) < 0.03
    assert [len(truth) for _, truth in sample.choices()] == [len(sample.classes)] * 2
    np.testing.assert_allclose(
        scale(sample.probability, 2.0, OVERLAPPING),
        1 / (1 + ((1 - sample.probability) / sample.probability) ** 0.5),
        rtol=1e-6,
    )
    assert class_probabilities(np.array([[0.0, 1.0]]), 0.1, OVERLAPPING).tolist() == [[0.1, 0.9]]


def test_what_is_predicted_outside_counts_for_each_structure() -> None:
    reference, prediction = np.zeros((20, 6, 6), np.int64), np.zeros((20, 6, 6), np.int64)
    reference[:4], prediction[:4] = 3, 3
    prediction[15] = 1
    prediction[16] = 2
    probability = np.stack([prediction % 2, prediction // 2]).astype(np.float64)
    sample = band_sample(
        probability, prediction, reference, (1, 1, 1), case="c", patient="p", band=2, clamp=1e-3, heads=OVERLAPPING
    )
    assert sample.outside == (36, 36)


def test_rows_of_a_trained_arm_name_every_structure() -> None:
    gathered = ArmCalibration(TrainedArm("fine_tune", 1, 0), OPTIONS, 0)
    for number in range(4):
        gathered.add(replace(overconfident(number, 2.0), voxel_correlation=0.1))
    rows, curve = gathered.finish()
    assert {(row.arm, row.label) for row in rows} == {
        (arm, label) for arm in ("fine_tune", "fine_tune+temperature") for label in ("whole", "core")
    }
    raw, scaled = ([row for row in rows if row.arm.endswith(end)] for end in ("tune", "temperature"))
    assert np.mean([row.ece for row in scaled]) < np.mean([row.ece for row in raw]) / 2
    # The inner ball is the smaller one, and its interval is that of its own probabilities.
    volumes = {row.label: row.volume_high_ml for row in raw}
    assert volumes["core"] < volumes["whole"]
    assert curve


def test_metrics_are_those_of_each_structure_alone() -> None:
    reference, prediction = np.zeros((8, 8, 8), np.int64), np.zeros((8, 8, 8), np.int64)
    reference[2:6, 2:6, 2:6] = 1
    reference[3:5, 3:5, 3:5] = 3
    prediction[2:6, 2:6, 2:6] = 3
    rows = evaluate_case(
        prediction, reference, {"whole": 1, "core": 2}, (1, 1, 1), trained=TrainedArm("a", 1, 0), case="c",
        patient="p", options=EvaluationOptions(), heads=OVERLAPPING,
    )  # fmt: skip
    assert [row.dice for row in rows] == [1.0, pytest.approx(2 * 8 / (8 + 64))]


def test_entropies_near_a_boundary_add_up() -> None:
    case = overconfident(0, 1.0)
    found = predicted_uncertainty(
        case.probability, case.prediction, None, 1, (1, 1, 1), band=2, clamp=1e-6, heads=OVERLAPPING
    )
    alone = [
        predicted_uncertainty(own[None], case.prediction % 2, None, 1, (1, 1, 1), band=2, clamp=1e-6).entropy
        for own in case.probability
    ]
    assert found.entropy == pytest.approx(sum(alone), rel=1e-3)


def test_crumbs_of_one_structure_leave_the_others_alone() -> None:
    mask = np.zeros((20, 6, 6), np.uint8)
    mask[1:6] = 3
    mask[10:12] = 3
    mask[15] = 1
    keep_components(mask, [1, 2], [ComponentRule(), ComponentRule(keep=Kept.LARGEST)], 1.0, OVERLAPPING)
    assert (mask[1:6] == 3).all()
    assert (mask[10:12] == 1).all()
    assert (mask[15] == 1).all()


def test_files_of_a_case_have_a_mask_for_each_structure() -> None:
    files, names = CaseFiles("a", "a"), ["whole tumour", "core"]
    assert files.masks(names, OVERLAPPING) == {
        "whole tumour": "a_mask-whole-tumour.nii.gz",
        "core": "a_mask-core.nii.gz",
    }
    assert files.masks(names, Heads.EXCLUSIVE) == {}
    bids = CaseFiles("sub-1", "sub-1", True)
    assert bids.masks(["core"], OVERLAPPING) == {"core": "sub-1_label-core_desc-graft_mask.nii.gz"}


def test_values_of_overlapping_structures_add_up_to_one_meaning() -> None:
    values = label_values({"whole": [1, 2, 3], "core": [1, 3], "rim": [2]})
    assert values == {"whole": 1, "core": 2, "rim": 4}
    assert label_values({"a": [7], "b": [9]}) == {"a": 7, "b": 9}

    class About:
        classes, heads = values, OVERLAPPING

    shown = _shown(About())  # type: ignore[arg-type]
    assert len(shown) == 7
    assert shown[5] == ["whole", "rim"]


def nnunet_cohort(root: Path) -> Dataset:
    """Nested regions as nnU-Net declares them, in two scans."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b"):
        label = np.zeros((16, 16, 16), np.uint8)
        label[3:13, 3:13, 3:13], label[5:11, 5:11, 5:11], label[7:9, 7:9, 7:9] = 1, 2, 3
        label[:, :, :2] = 4
        image = np.random.default_rng(0).normal(100, 20, label.shape) + 50 * label
        write_volume(Volume(image.astype(np.int16), np.eye(4)), root / "imagesTr" / f"{name}_0000.nii.gz")
        write_volume(Volume(label, np.eye(4)), root / "labelsTr" / f"{name}.nii.gz")
    (root / "dataset.json").write_text(
        '{"channel_names": {"0": "T1"}, "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], '
        '"enhancing": 3, "ignore": 4}, "regions_class_order": [1, 2, 3], "file_ending": ".nii.gz", "numTraining": 2}'
    )
    return read_dataset(root)


def test_a_plan_takes_the_regions_that_a_dataset_declares(tmp_path: Path) -> None:
    dataset = nnunet_cohort(tmp_path)
    regions = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert drawn_structures(dataset, {0, 1, 2, 3, 4}) == regions
    assert drawn_structures(dataset, {0, 1, 4}) == {"whole": (1, 2, 3)}
    # What another role uses is left out, and what is ignored is no structure.
    assert drawn_structures(dataset, {0, 1, 2, 3, 4}, without={"x": (3,)}) == {"label 1": (1,), "label 2": (2,)}
    assert named_structures("whole,tumour=core+1", dataset) == {"whole": (1, 2, 3), "tumour": (2, 3, 1)}


def test_the_best_dice_of_a_grid_is_that_of_each_region(tmp_path: Path) -> None:
    dataset = nnunet_cohort(tmp_path)
    found = best_dice(dataset.cases, dataset.regions, (1.0, 1.0, 1.0))
    assert {name: own.worst for name, own in found.items()} == {"whole": 1.0, "core": 1.0, "enhancing": 1.0}
    coarse = best_dice(dataset.cases, dataset.regions, (4.0, 4.0, 4.0))
    assert coarse["whole"].median > coarse["enhancing"].median


def test_a_report_reads_overlapping_structures(make_case, store_prediction, tmp_path: Path) -> None:
    case = make_case(classes={"whole": (1,), "core": (1,)})
    probability = np.full((1, *case.shape), 0.01, np.float32)
    probability[0][case.label().numpy() == 3] = 0.99
    path = store_prediction(tmp_path, probability, affine=case.affine)
    from pipeline.prediction.stored_prediction import load_prediction
    from pipeline.prediction.temperature import log_probability

    both = torch.from_numpy(np.concatenate([probability, probability]))
    stored = replace(
        load_prediction(path),
        classes=("whole", "core"),
        log_probability=log_probability(both).half(),
        heads=OVERLAPPING,
    )
    stored.write(path)
    read = read_case(case.path, path, {"whole": [1], "core": [1]}, ReadingOptions())
    assert set(np.unique(read.scene.prediction)) == set(np.unique(read.scene.reference)) == {0, 3}
    assert read.overlap == 1.0
    assert float(read.scene.entropy.max()) < 0.1


def test_a_head_of_another_kind_is_left_behind(make_case, tmp_path: Path) -> None:
    from models.networks.residual_unet import ResidualUNetOptions
    from pipeline.arms.target_network import TargetNetwork
    from pipeline.storage.tensors import save_tensors

    options = ResidualUNetOptions(channels=(4, 6), encoder_blocks=(0, 1))
    # Two outputs each: background and structure, or two structures.
    source = TargetNetwork(options, 1, 2).build(1)
    save_tensors(tmp_path / "s.safetensors", source.state_dict())
    for classes, anew in (({"cube": (1,)}, False), ({"whole": (1,), "core": (1,)}, True)):
        case = make_case(classes=classes)
        arm = ArmOptions(init=Initialisation.SOURCE)
        network = TargetNetwork.of(options, case)
        task = TrainingTask(arm, network, 0, 1, 0, {"p": [case]}, [tmp_path / "s.safetensors"], [], {}, {}, {})
        started = start_from_source(network.build(2), task.knowledge().states[0])
        assert bool(started) is anew
        assert all(name.startswith("head.") for name in started)
