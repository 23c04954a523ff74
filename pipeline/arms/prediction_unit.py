"""One prediction of the test cases by trained members and their draws; arms that differ only in reading share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.networks.factory import NetworkOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.prediction import WeightDraws, predict_cases
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.training_unit import load_member
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import StoredPrediction, predicted_image, prediction_name
from pipeline.storage.atomic import link_or_copy
from pipeline.storage.cached_case import CachedCase


@dataclass(frozen=True)
class PredictionTask:
    """The inputs of one prediction.

    Attributes:
        arm: the choices that it depends on (`ArmOptions.of_prediction`).
        trainings: folder of each member's training.
        seeds: seed of each member's draws.
        network: options of the network.
        patch: size of the sliding window.
        window: how it moves.
        device: where to predict.
        cases: to predict.
        images: case → digest of its preprocessed image.
        earlier: folder of the same prediction by an earlier command; its predictions of these images are reused.
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
    """Predicts every test case that has not been predicted yet.

    Raises:
        ModelError: the weights of a member do not fit its options.
        WorkspaceError: a training is missing or damaged.
    """
    left = [case for case in task.cases if not _reuse(task, case, folder)]
    if not left:
        return
    network = TargetNetwork.of(task.network, left[0])
    members = []
    for training, seed in zip(task.trainings, task.seeds, strict=True):
        member = load_member(training, task.arm, network).to(task.device)
        members.append(WeightDraws(member, task.arm.draws, seed, task.device))
    for case, prediction in predict_cases(members, left, task.patch, task.window, task.device, progress):
        stored = StoredPrediction.of(prediction, case, task.images[case.name])
        stored.write(folder / prediction_name(case.name))


def _reuse(task: PredictionTask, case: CachedCase, folder: Path) -> bool:
    """Reuses the earlier prediction of a case, if it is of the same image."""
    name = prediction_name(case.name)
    before = task.earlier / name
    if not before.is_file() or predicted_image(before) != task.images[case.name]:
        return False
    link_or_copy(before, folder / name)
    return True
