"""Which arms have a model of n = 0, and what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from data.errors import ModelError
from models.networks.factory import build_network
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import PRESETS
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import (
    MEMBER,
    TrainingSettings,
    TrainingTask,
    load_member,
    read_training,
    train_member,
)
from pipeline.arms.without_annotation import of_source_alone, why_annotation_is_needed
from pipeline.execution.progress import ProgressFile
from pipeline.storage.tensors import save_tensors
from tests.pipeline.arms.conftest import NETWORK, OFF, PATCHES, SEED, training_options

NOTHING_NEEDED = {"fine_tune", "fine_tune_ends", "frozen_encoder", "fine_tune_branches", "ensemble"}


def test_arms_without_a_prior_that_start_from_source_networks_need_no_annotation() -> None:
    assert {name for name, arm in PRESETS.items() if why_annotation_is_needed(arm) is None} >= NOTHING_NEEDED
    reasons = {
        "random": "starts at random",
        "prior_init": "draws of a prior",
        "self_supervised": "last layer",
        "fine_tune_l2sp": "prior l2_sp",
        "swa": "iterates",
        "fine_tune_self_training": "plausible",
    }
    for name, words in reasons.items():
        assert words in str(why_annotation_is_needed(PRESETS[name]))


def test_a_size_of_zero_is_of_arms_that_need_no_annotation_alone() -> None:
    options = TargetTrainingOptions(arms=["random", "fine_tune"], sizes=[3, 0], reference_sizes=[5])
    assert options.sizes_of("random") == (3, 5)
    assert options.sizes_of("fine_tune") == (0, 3)
    assert options.without_model_at_zero() == {"random": "its network starts at random"}
    assert TargetTrainingOptions(arms=["random"], sizes=[3]).without_model_at_zero() == {}
    with pytest.raises(ValidationError, match="no arm has a model without annotated"):
        TargetTrainingOptions(arms=["random", "dwp"], sizes=[0, 3])
    with pytest.raises(ValidationError, match="at least 1"):
        TargetTrainingOptions(arms=["random", "fine_tune"], sizes=[0, 3], reference_sizes=[0])


def test_the_member_is_the_source_network_whatever_its_training_would_be(tmp_path: Path) -> None:
    slow, quick = (ArmOptions(init="source", peak_rate=rate) for rate in (1e-3, 1e-2))
    assert of_source_alone(slow) == of_source_alone(quick)
    source = build_network(NETWORK, 1, 2, 7)
    save_tensors(tmp_path / "network.safetensors", source.state_dict())
    target = TargetNetwork(NETWORK, 1, 2)
    task = TrainingTask(
        of_source_alone(slow), target, 0, 0, 0, {}, [tmp_path / "network.safetensors"], (), {}, {}, {}
    )  # fmt: skip
    folder, progress = tmp_path / "alone", ProgressFile(tmp_path / "progress")
    folder.mkdir()
    settings = TrainingSettings(training_options(), PATCHES, OFF, SEED, "cpu")
    train_member(folder, progress, task=task, settings=settings)
    assert {path.name for path in folder.iterdir()} == {MEMBER, "training.json"}
    record = read_training(folder)
    assert (record.steps, record.n, record.patients) == (0, 0, ())
    member, image = load_member(folder, slow, target), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(member.with_weights(member.centre())(image), source.eval()(image))
    wider = replace(task, network=TargetNetwork(NETWORK, 1, 3))
    with pytest.raises(ModelError, match=r"lacks weights of the target's: head"):
        train_member(folder, progress, task=wider, settings=settings)
