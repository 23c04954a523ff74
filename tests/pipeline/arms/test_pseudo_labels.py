"""Pseudo-labels: which scans enter, how much a voxel weighs, and what a student does with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.heads import IGNORED
from pipeline.arms.choices import ArmOptions
from pipeline.arms.kept_round import ROUND, KeptRound, RoundTask, keep_round, read_round
from pipeline.arms.presets import DEFAULT_ARM, PRESETS
from pipeline.arms.pseudo_labels import UNCERTAIN, PseudoLabels, Teacher, plausible_volumes
from pipeline.arms.pseudo_patches import PseudoSampler
from pipeline.arms.target_loss import pseudo_weight
from pipeline.arms.training_unit import MEMBER, TrainingSettings, read_training, train_member
from pipeline.arms.unlabelled_use import NoUnlabelledOptions, SelfTrainingOptions, Weighting
from pipeline.arms.weight_average import WeightAverage
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.posterior_average import entropy
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import load_prediction, prediction_name
from pipeline.storage.cached_case import CachedCase
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.patches import PatchOptions

OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
VOXEL_ML = 12e-3


@pytest.fixture
def judged(tmp_path: Path, make_case: Callable[..., CachedCase], store_prediction: Callable[..., Path]) -> Callable:
    """Returns a function that judges predicted cubes: name → (edge in voxels, mutual information inside)."""

    def judge(found: dict[str, tuple[int, float | None]], edges: tuple[int, ...] = (5,), **options) -> PseudoLabels:
        cases, folder = [], tmp_path / "predictions"
        for name, (edge, information) in found.items():
            cases.append(make_case(name, labelled=False))
            cube = np.zeros((1, 16, 16, 16), np.float32)
            cube[0, 2 : 2 + edge, 2 : 2 + edge, 2 : 2 + edge] = 0.8
            spread = None if information is None else information * (cube[0] > 0).astype(np.float32)
            store_prediction(folder, cube, case=name, affine=cases[-1].affine, classes=("cube",), information=spread)
        labelled = []
        for number, edge in enumerate(edges):
            label = np.zeros((16, 16, 16), np.int16)
            label[:edge, :edge, :edge] = 1
            labelled.append(make_case(f"labelled-{number}", label=label))
        return Teacher(folder, cases, tmp_path / "before").judged(labelled, SelfTrainingOptions(**options))

    return judge


def test_the_least_uncertain_plausible_scans_enter(judged: Callable) -> None:
    cubes = {"a": (5, 0.3), "b": (5, 0.1), "c": (5, 0.2), "large": (9, 0.01), "none": (0, 0.0), "d": (4, 0.4)}
    found = judged(cubes, kept=0.7, span=2.0)
    # 0.7 of the four that are plausible, rounded up to whole scans.
    assert found.record.entered == ("b", "c", "a")
    assert [own.case.name for own in found.cases] == ["b", "c", "a"]
    left = found.record.left_out
    assert left["d"] == UNCERTAIN
    assert left["none"] == "no structure was predicted"
    assert left["large"] == "the volume of cube is 8.75 ml, and 0.75 to 3 ml are plausible"
    assert (found.record.uncertainty, found.record.round) == ("mutual_information", 1)
    assert found.record.scale == pytest.approx(0.2, rel=1e-3)
    everybody = judged(cubes, kept=1.0, span=6.0)
    assert everybody.record.entered == ("large", "b", "c", "a", "d")


def test_a_teacher_of_one_pass_is_judged_by_its_entropy(judged: Callable) -> None:
    found = judged({"a": (5, None), "b": (4, None)}, kept=1.0)
    expected = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert found.record.uncertainty == "predictive_entropy"
    assert found.record.scale == pytest.approx(expected, rel=1e-3)


def test_plausible_volumes_are_those_of_the_annotated_scans_and_a_factor_more(make_case: Callable) -> None:
    cases = [make_case("a"), make_case("b", label=np.pad(np.ones((2, 2, 2), np.int16), (0, 14)))]
    assert plausible_volumes(cases, 3.0) == {"cube": (pytest.approx(8 * VOXEL_ML / 3), pytest.approx(375 * VOXEL_ML))}


@pytest.mark.parametrize("weighting", list(Weighting))
def test_the_weight_of_a_voxel_follows_the_weighting(weighting: Weighting, bench) -> None:
    teacher = bench.teacher()
    options = SelfTrainingOptions(weighting=weighting, sharpness=1.5)
    own = teacher.judged([bench.make_case("a", classes={"class_1": (1,)})], options)
    [case, _] = own.cases
    image, probability, weight = case.patch(np.zeros(3, int), (16, 16, 16))
    stored = load_prediction(teacher.path(case.case))
    assert torch.equal(image, case.case.image())
    assert torch.allclose(probability[1], stored.log_probability[1].float().exp(), atol=1e-3)
    assert stored.mutual_information is not None
    expected = {
        Weighting.NONE: torch.ones(16, 16, 16),
        Weighting.CONFIDENCE: probability.amax(0),
        Weighting.MUTUAL_INFORMATION: torch.exp(-1.5 * stored.mutual_information.float() / own.record.scale),
    }[weighting]
    assert torch.allclose(weight[0], expected, atol=1e-6)
    if weighting is Weighting.MUTUAL_INFORMATION:
        # One of five layers is uncertain, so the mean is a fifth of its uncertainty.
        assert float(weight[0, 4, 6, 7]) == pytest.approx(math.exp(-1.5 * 5), rel=0.01)
        assert float(weight[0, 6, 6, 7]) == 1


def test_one_pass_weighs_by_its_entropy(bench) -> None:
    teacher = bench.teacher()
    for case in teacher.cases:
        stored = load_prediction(teacher.path(case))
        replace(stored, mutual_information=None, draws=1).write(teacher.path(case))
    own = teacher.judged([bench.make_case("a", classes={"class_1": (1,)})], SelfTrainingOptions())
    _, probability, weight = own.cases[0].patch(np.zeros(3, int), (16, 16, 16))
    assert torch.allclose(weight[0], torch.exp(-entropy(probability) / own.record.scale), atol=1e-6)


def test_beyond_the_scan_nothing_has_a_weight(bench) -> None:
    own = bench.teacher().judged([bench.make_case("a", classes={"class_1": (1,)})], SelfTrainingOptions())
    image, probability, weight = own.cases[0].patch(np.array([-3, 0, 5]), (16, 16, 16))
    assert (image.shape[1:], probability.shape[1:]) == ((16, 16, 16), (16, 16, 16))
    assert not weight[0, :3].any()
    assert not weight[0, :, :, 11:].any()
    assert (weight[0, 3:, :, :11] > 0).all()
    assert torch.allclose(probability.sum(0), torch.ones(16, 16, 16), atol=1e-5)


def test_targets_move_with_the_image_and_only_with_its_geometry() -> None:
    """The same seed moves a soft target as it moves labels, and noise and contrast leave it alone."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 16, 16, 16, generator=generator)
    codes = torch.zeros(16, 16, 16, dtype=torch.int64)
    codes[4:12, 5:13, 3:10] = 1
    target = torch.stack([1.0 - codes, 1.0 * codes])
    weight = torch.ones(1, 16, 16, 16)
    options = AugmentationOptions(
        affine=1, flip_axes=(0, 2), noise=1, brightness=1, gamma=1, blur=0, low_resolution=0, rotation=25, scaling=0.3
    )
    hard, soft = Augmentation(options), Augmentation(options, soft=True)
    for seed in range(4):
        moved_image, moved = hard(image, codes, seed)
        same_image, probability, own_weight = soft.soft(image, target, weight, seed)
        assert torch.equal(moved_image, same_image)
        inside = (moved != IGNORED) & (own_weight[0] > 0.99)
        agree = (probability[1] > 0.5) == (moved == 1)
        assert float(agree[inside].double().mean()) > 0.995
        assert torch.allclose(probability.sum(0), torch.ones(16, 16, 16), atol=1e-4)
        # What comes from beyond the patch was predicted by nobody.
        assert float(own_weight[0][moved == IGNORED].max()) < 0.51 if (moved == IGNORED).any() else True
    assert Augmentation(OFF, soft=True).soft(image, target, weight, 0) == (image, target, weight)


def test_batches_of_unlabelled_scans_are_a_function_of_the_step(bench) -> None:
    own = bench.teacher().judged([bench.make_case("a", classes={"class_1": (1,)})], SelfTrainingOptions(kept=1.0))
    sampler = PseudoSampler(
        own.cases, PatchOptions(size=(8, 8, 8), batch=3), Augmentation(AugmentationOptions(), soft=True), 5
    )
    images, targets, names = sampler.batch(2)
    assert (images.shape, targets.shape, len(names)) == ((3, 1, 8, 8, 8), (3, 3, 8, 8, 8), 3)
    again = sampler.batch(2)
    assert torch.equal(images, again[0])
    assert torch.equal(targets, again[1])
    assert not torch.equal(images, sampler.batch(3)[0])
    assert {name for step in range(8) for name in sampler.batch(step)[2]} == {"v", "w"}
    # Half of the patches are centred on what was predicted.
    centred = PseudoSampler(
        own.cases, PatchOptions(size=(8, 8, 8), batch=1, foreground_share=1), Augmentation(OFF, soft=True), 5
    )
    assert all(float(centred.batch(step)[1][0, 1].max()) > 0.5 for step in range(5))


def test_the_weight_of_the_loss_rises() -> None:
    options = SelfTrainingOptions(weight=0.5, ramp_up=0.4)
    assert pseudo_weight(options, 0, 100) == pytest.approx(0.5 * math.exp(-5))
    assert pseudo_weight(options, 20, 100) == pytest.approx(0.5 * math.exp(-5 / 4))
    assert [pseudo_weight(options, step, 100) for step in (40, 99)] == [0.5, 0.5]
    assert pseudo_weight(SelfTrainingOptions(ramp_up=0), 0, 100) == 1.0
    assert pseudo_weight(NoUnlabelledOptions(), 50, 100) == 0.0


def test_a_student_learns_from_both_kinds_of_scans(bench) -> None:
    arm = PRESETS["fine_tune_self_training"].model_copy(update={"unlabelled": SelfTrainingOptions(ramp_up=0.0)})
    student = bench.learn(arm, log_every=1)
    row = student.history.rows[0]
    assert row["pseudo_weight"] == 1.0
    assert row["loss"] == pytest.approx(row["data_term"] + row["pseudo_term"], rel=1e-5)
    plain = bench.learn(arm.at_round(0), log_every=1)
    assert "pseudo_term" not in plain.history.rows[0]
    assert plain.history.rows[0]["data_term"] == pytest.approx(row["data_term"], rel=1e-5)


def test_a_students_weights_are_averaged_over_its_last_steps(bench) -> None:
    model = bench.learn(PRESETS["random"]).model.requires_grad_(True)
    learned = [own for own in model.parameters() if own.requires_grad]
    average = WeightAverage(model, 0.5, 4)
    start = [own.detach().clone() for own in learned]
    with torch.no_grad():
        for step, shift in enumerate((5.0, 7.0, 1.0, 2.0)):
            for own, before in zip(learned, start, strict=True):
                own.copy_(before + shift)
            average(step)
    average.apply()
    for own, before in zip(learned, start, strict=True):
        assert torch.allclose(own, before + 1.5, atol=1e-5)


def test_rounds_are_of_the_training_and_nothing_else() -> None:
    arm = PRESETS["self_training"]
    default = PRESETS[DEFAULT_ARM]
    # Round 0 is the arm without unlabelled scans: its trainings are shared.
    assert arm.at_round(0).of_training() == default.of_training()
    assert arm.of_training() != default.of_training()
    assert arm.of_prediction() == default.of_prediction()
    assert (arm.rounds, arm.at_round(0).rounds, default.rounds) == (1, 0, 0)
    assert "unlabelled" not in default.in_recipe()
    assert ArmOptions(unlabelled="self_training").unlabelled == SelfTrainingOptions()
    with pytest.raises(ValueError, match="would be updated in every round"):
        ArmOptions.model_validate(
            PRESETS["dwp"].model_dump() | {"unlabelled": "self_training", "update_from": "somewhere"}
        )


def test_the_round_with_the_best_predictions_is_kept(
    tmp_path: Path, make_case: Callable, store_prediction: Callable
) -> None:
    cases = [make_case(f"case-{number}", patient=patient) for number, patient in enumerate("ab")]
    for name, found, kept in (
        ("better", ((0.9, 0.1), (0.9, 0.9), (0.9, 0.9)), 1),
        ("equal", ((0.9, 0.1), (0.1, 0.9), (0.9, 0.1)), 0),
    ):
        rounds = []
        for number, probabilities in enumerate(found):
            folder = tmp_path / name / f"round-{number}"
            for case, probability in zip(cases, probabilities, strict=True):
                cube = (case.label().numpy()[None] > 0).astype(np.float32) * np.float32(probability)
                store_prediction(folder, cube, case=case.name, affine=case.affine, classes=tuple(case.classes))
            rounds.append([(folder, cases[:1]), (folder, cases[1:])])
        keep_round(tmp_path / name, ProgressFile(tmp_path / "p"), task=RoundTask(rounds, ReadingOptions()))
        record = KeptRound.model_validate_json((tmp_path / name / ROUND).read_text())
        assert read_round(tmp_path / name) == record
        assert (record.kept, record.patients) == (kept, 2)
        assert record.dice[kept] == max(record.dice)


@pytest.mark.parametrize("fault", ["nothing enters", "nan"])
def test_a_student_that_cannot_learn_keeps_the_round_before(
    fault: str, bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = PRESETS["fine_tune_self_training"]
    [before] = bench.task(arm.at_round(0)).trainings
    settings = TrainingSettings(bench_options(), PatchOptions(size=(8, 8, 8), batch=1), OFF, 3, "cpu")
    progress = ProgressFile(tmp_path / "progress")
    folders = {name: bench.folder / name for name in ("before", "student")}
    for folder in folders.values():
        folder.mkdir()
    train_member(folders["before"], progress, task=before, settings=settings)
    [task] = bench.task(arm).trainings
    assert task.teacher is not None
    if fault == "nan":
        monkeypatch.setattr("pipeline.arms.target_loss.pseudo_weight", lambda *_: math.nan)
        words = "the loss is nan at step 0"
    else:
        task = replace(task, arm=arm.model_copy(update={"unlabelled": SelfTrainingOptions(span=1.0)}).of_training())
        label = np.pad(np.ones((2, 2, 2), np.int16), (0, 14))
        small = bench.make_case("small", label=label, classes={"class_1": (1,)})
        task = replace(task, patients={"p": [small]})
        words = "none of 2 unlabelled scans entered the round (the volume of class_1 is 1.5 ml"
    train_member(folders["student"], progress, task=task, settings=settings)
    assert (folders["student"] / MEMBER).read_bytes() == (folders["before"] / MEMBER).read_bytes()
    record = read_training(folders["student"])
    assert record.pseudo_labels is not None
    assert words in str(record.pseudo_labels.stopped)
    assert "self-training stops before round 1" in caplog.text
    assert {path.name for path in folders["student"].iterdir()} == {path.name for path in folders["before"].iterdir()}
    if fault == "nan":
        # A first round has nothing to fall back on.
        monkeypatch.setattr("pipeline.arms.target_loss.TargetLoss.__call__", not_finite)
        with pytest.raises(Exception, match="the loss is nan"):
            train_member(folders["before"], progress, task=before, settings=settings)


def bench_options():
    from pipeline.arms.target_training_options import TargetTrainingOptions

    return TargetTrainingOptions(arms=["random"], steps=2)


def not_finite(loss, step, first_batch=0):
    from pipeline.training.loop import StepLoss

    return StepLoss(sum(p.sum() for p in loss.model.parameters()) * math.nan, {}, ["a"])


def test_what_was_learned_from_is_written_down(bench, tmp_path: Path) -> None:
    [task] = bench.task(PRESETS["fine_tune_self_training"]).trainings
    folder = tmp_path / "student"
    folder.mkdir()
    settings = TrainingSettings(bench_options(), PatchOptions(size=(8, 8, 8), batch=1), OFF, 3, "cpu")
    train_member(folder, ProgressFile(tmp_path / "progress"), task=task, settings=settings)
    record = read_training(folder).pseudo_labels
    assert record is not None
    assert (record.round, set(record.entered), record.left_out, record.stopped) == (1, {"v", "w"}, {}, None)
    assert (bench.folder / "pseudo-labels" / prediction_name("v")).is_file()
