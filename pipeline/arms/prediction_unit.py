"""One prediction: what trained members and their draws say of the test cases. Arms that differ in reading share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.networks.factory import NetworkOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.prediction import predict_cases, weight_draws
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.training_unit import load_member
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import StoredPrediction, predicted_image, prediction_name
from pipeline.storage.atomic import link_or_copy
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class PredictionTask:
    """What one prediction does.

    Attributes:
        arm: the choices that it depends on (`ArmOptions.of_prediction`).
        trainings: folder of each member's training.
        seeds: seed of each member's draws.
        network: which network.
        patch: size of the sliding window.
        window: how it moves.
        device: where to predict.
        cases: to predict.
        images: case → digest of its preprocessed image.
        earlier: folder of the same prediction by an earlier command; what it holds of these images is taken over.
    """

    arm: ArmOptions
    trainings: Sequence[Path]
    seeds: Sequence[int]
    network: NetworkOptions
    patch: tuple[int, int, int]
    window: SlidingWindowOptions
    device: str
    cases: Sequence[CachedCase]
    images: Mapping[str, str]
    earlier: Path


def predict_test_cases(folder: Path, progress: ProgressFile, *, task: PredictionTask) -> None:
    """Predicts every test case that was not predicted before.

    Raises:
        ModelError: the weights of a member are of other options.
        WorkspaceError: a training is missing or damaged.
    """
    left = [case for case in task.cases if not _take_over(task, case, folder)]
    if not left:
        return
    network = TargetNetwork.of(task.network, left[0])
    members = []
    for training, seed in zip(task.trainings, task.seeds, strict=True):
        member = load_member(training, task.arm, network).to(task.device)
        members.append((member, weight_draws(member, task.arm.draws, seed, task.device)))
    for case, prediction in predict_cases(members, left, task.patch, task.window, task.device, progress):
        stored = StoredPrediction.of(prediction, case, task.images[case.name])
        stored.write(folder / prediction_name(case.name))


def _take_over(task: PredictionTask, case: CachedCase, folder: Path) -> bool:
    """Takes the prediction of a case over from the earlier folder, if it is one of the same image."""
    name = prediction_name(case.name)
    before = task.earlier / name
    if not before.is_file() or predicted_image(before) != task.images[case.name]:
        return False
    link_or_copy(before, folder / name)
    return True
