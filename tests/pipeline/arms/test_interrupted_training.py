"""A training on the target that is stopped anywhere goes on from there, and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.networks.monai_networks import SegResNetOptions
from models.posteriors.mixture import MixtureOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.presets import PRESETS
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import MEMBER, TRAINING, TrainingSettings, TrainingTask, train_member
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.storage.file_names import HISTORY
from pipeline.storage.tensors import load_about
from pipeline.training.augmentation import AugmentationOptions
from pipeline.training.checkpoint import CHECKPOINT
from pipeline.training.patches import PatchOptions

STEPS = 3
StopsAfter = Callable[[int], ProgressFile]


def changed(preset: str, **changes: Any) -> ArmOptions:
    return ArmOptions.model_validate(PRESETS[preset].model_dump() | changes)


TWO = {"kind": "mixture", "components": 2}
CHOICES = {
    "ridge": ArmOptions(prior="l2"),
    "all_bayesian": changed("gaussian_full", bayesian_scope="all"),
    "all_bayesian_swag": changed("swag", bayesian_scope="all"),
    "all_bayesian_mixture": changed("gaussian_full", bayesian_scope="all", posterior=TWO),
    "weights_by_elbo": changed("gaussian_full", posterior={**TWO, "weights": "elbo", "repulsion": "first_order"}),
    "local": changed("gaussian_full", posterior={"kind": "mean_field", "estimator": "local_reparameterisation"}),
    "several_draws": changed("dwp", posterior={"kind": "mean_field", "antithetic": True}, train_samples=3),
    "warm_up_of_the_kl": changed("dwp", kl_warm_up=0.8, prior_samples=2),
    "averaged_student": changed("fine_tune_self_training", unlabelled={"kind": "self_training", "average_from": 0.3}),
    "scales_of_a_point": changed("hierarchical", posterior={"kind": "point"}),
}


def kinds_of_learning() -> Mapping[str, ArmOptions]:
    """Presets that learn alike are one."""
    different = {arm.of_training().model_dump_json(): name for name, arm in reversed(PRESETS.items())}
    return {name: PRESETS[name] for name in reversed(different.values())} | CHOICES


@pytest.fixture
def settings() -> TrainingSettings:
    """With augmentation, and a log of every step."""
    options = TargetTrainingOptions(arms=["random"], steps=STEPS, log_every=1)
    return TrainingSettings(options, PatchOptions(size=(8, 8, 8), batch=1), AugmentationOptions(), 3, "cpu")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def train_in_pieces(folder: Path, task: TrainingTask, settings: TrainingSettings, stops_after: StopsAfter) -> None:
    """Trains with a stop after the last but one step, which of a mixture is one of the last component."""
    folder.mkdir()
    # After the last step of a round nobody looks whether to stop: the next one would have to begin it again.
    with pytest.raises(StopRequestedError):
        train_member(folder, stops_after(task.arm.components * (STEPS - 1)), task=task, settings=settings)
    assert load_about(folder / CHECKPOINT)["step"] == task.arm.components * STEPS - 1
    train_member(folder, ProgressFile(folder.parent / "progress"), task=task, settings=settings)


@pytest.mark.parametrize("name", kinds_of_learning())
def test_a_training_that_is_stopped_ends_with_the_same_bytes(
    name: str, bench, settings: TrainingSettings, stops_after: StopsAfter, tmp_path: Path
) -> None:
    arm = kinds_of_learning()[name]
    [task, *_] = bench.task(arm).trainings
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    train_member(whole, ProgressFile(tmp_path / "progress"), task=task, settings=settings)
    train_in_pieces(stopped, task, settings, stops_after)
    assert contents(stopped) == contents(whole)
    assert contents(whole).keys() == {MEMBER, TRAINING, HISTORY}


def test_networks_with_statistics_and_dropout_and_an_earlier_posterior_go_on_too(
    bench, settings: TrainingSettings, stops_after: StopsAfter, tmp_path: Path
) -> None:
    [task] = bench.task(PRESETS["random"]).trainings
    network = SegResNetOptions(initial_channels=8, encoder_blocks=(1, 1), decoder_blocks=(1,), dropout=0.2)
    first = changed("dwp_source", prior="gaussian_full", draws=1)
    bench.run(bench.task(first, "old"), tmp_path / "old")
    [updating] = bench.task(changed("dwp_source", prior="gaussian_full", update_from=tmp_path / "old")).trainings
    dropping = replace(task, network=replace(task.network, options=network))
    for name, own in {"dropout": dropping, "update": updating}.items():
        whole = tmp_path / f"{name}-whole"
        whole.mkdir()
        train_member(whole, ProgressFile(tmp_path / "progress"), task=own, settings=settings)
        train_in_pieces(tmp_path / name, own, settings, stops_after)
        assert contents(tmp_path / name) == contents(whole)


def test_a_killed_training_goes_on_from_its_last_checkpoint_and_an_unfit_one_starts_over(
    bench, settings: TrainingSettings, stops_after: StopsAfter, tmp_path: Path, caplog
) -> None:
    [task] = bench.task(changed("dwp", posterior=MixtureOptions(components=2))).trainings
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    never = ProgressFile(tmp_path / "progress", saves=True)
    train_member(whole, never, task=task, settings=settings)
    saving = replace(settings, checkpoint_steps=2)

    class Killed(BaseException):
        """Nothing is saved when it comes."""

    class Kills(ProgressFile):
        def __call__(self, fraction: float) -> None:
            if fraction > 0.8:
                raise Killed

    with pytest.raises(Killed):
        train_member(killed, Kills(tmp_path / "progress", saves=True), task=task, settings=saving)
    checkpoint = (killed / CHECKPOINT).read_bytes()
    seen: list[float] = []

    class Notes(ProgressFile):
        def __call__(self, fraction: float) -> None:
            seen.append(fraction)

    train_member(killed, Notes(tmp_path / "progress", saves=True), task=task, settings=saving)
    assert contents(killed) == contents(whole)
    # Saved after step 4 of 6; the first component is not trained again.
    assert seen == pytest.approx([5 / 6, 1])
    # The one of another training, and a damaged one.
    other = bench.task(PRESETS["random"]).trainings[0]
    for unfit, own in ((checkpoint, other), (checkpoint[:-9], task)):
        folder = tmp_path / f"unfit-{len(unfit)}"
        folder.mkdir()
        (folder / CHECKPOINT).write_bytes(unfit)
        caplog.clear()
        train_member(folder, never, task=own, settings=settings)
        assert "the training starts over" in caplog.text
        assert contents(folder).keys() == contents(whole).keys()
    assert contents(folder) == contents(whole)
