"""Trainings of which nothing is known are estimated by their steps, each kind of which is timed once."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from data.splits import BootstrapSample
from models.networks.factory import NetworkOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, train_member
from pipeline.execution.unit import Unit
from pipeline.stages import training_probe
from pipeline.stages.pack_units import take_scores
from pipeline.stages.training_probe import TrainingProbe
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.cached_image import CachedImage
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.computing import ComputingOptions, Precision
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.image_model_training import ImageModelTask, train_image_model
from pipeline.training.patches import PatchOptions
from pipeline.training.source_network import SourceTask, train_source_network
from pipeline.training.source_options import SourceTrainingOptions

NETWORK: NetworkOptions = TypeAdapter(NetworkOptions).validate_python(
    {"name": "dynunet", "channels": [4, 6, 8], "deep_supervision": 1}
)
PATCHES = PatchOptions(size=(8, 8, 8), batch=1)
FLOAT32 = ComputingOptions(precision=Precision.FLOAT32)
HALF = 0.5


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Threads, channels and outputs of each kind of step that was timed; a step takes half a second."""
    seen: list[tuple[int, int, int]] = []

    def half(model: torch.nn.Module, computing: object, channels: int, classes: int, patches: object) -> float:
        assert patches is PATCHES
        seen.append((torch.get_num_threads(), channels, classes))
        return HALF

    monkeypatch.setattr(training_probe, "seconds_per_step", half)
    return seen


def of_source(case: CachedCase, device: str = "cpu") -> Unit:
    """Ten steps."""
    options = SourceTrainingOptions(networks=1, cycles=2, steps_per_cycle=5)
    sample = BootstrapSample((case.patient,), ())
    task = SourceTask(0, 1, sample, [[case]], [], NETWORK, options, PATCHES, AugmentationOptions(), FLOAT32)
    return Unit("train-source", "a", {}, train_source_network, {"task": task, "device": device})


def of_images(case: CachedCase) -> Unit:
    """Six steps; the network has an output for each image channel."""
    patients = {"source": {case.patient: [CachedImage.of(case)]}}
    task = ImageModelTask(
        "m", 1, patients, NETWORK, ImageModelOptions(steps=6), PATCHES, AugmentationOptions(), FLOAT32
    )  # fmt: skip
    return Unit("train-image-model", "m", {}, train_image_model, {"task": task, "device": "cpu"})


def of_target(case: CachedCase) -> Unit:
    """Four steps, each of which takes as long as three of a plain network."""
    task = TrainingTask(
        ArmOptions(), TargetNetwork.of(NETWORK, case), 0, 1, 0, {case.patient: [case]}, (), (), {}, {}, {}
    )
    options = TargetTrainingOptions(arms=["random"], steps=4)
    settings = TrainingSettings(options, PATCHES, AugmentationOptions(), 1, "cpu", FLOAT32)
    return Unit("train-target", "b", {}, train_member, {"task": task, "settings": settings}, size=3)


def test_each_kind_of_step_is_timed_once_with_the_threads_of_a_training(make_case, timed) -> None:
    case, other = make_case("a", channels=2), make_case("b", channels=2)
    probe = TrainingProbe(threads=torch.get_num_threads() + 1)
    assert probe.seconds([of_source(case), of_source(other)]) == 20 * HALF
    assert timed == [(probe.threads, 2, 2)]
    # On the target there are no heads on coarser levels.
    assert probe.seconds([of_target(case), of_source(case)]) == (4 * 3 + 10) * HALF
    assert timed == [(probe.threads, 2, 2)] * 2
    assert probe.seconds([of_images(case)]) == 6 * HALF


def test_what_does_not_train_here_is_not_estimated(make_case, timed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    taken = Unit("train-source", "c", {}, take_scores, {"scores": None})
    for units in ([of_source(make_case("a"), device="cuda")], [of_source(make_case("a")), taken]):
        assert TrainingProbe(threads=1).seconds(units) is None
    assert not timed
