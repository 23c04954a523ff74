"""One training: a member of one way of learning the target. Arms that learn alike share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from data.random_streams import stream_seed
from data.stored_record import WHOLE, StoredRecord, read_record
from models.bayesian_network import BayesianNetwork
from models.filters import FilterLayer
from models.networks.factory import NetworkOptions
from models.priors.factory import PriorOptions, load_prior
from models.priors.prior import FilterPrior
from pipeline.arms.choices import ArmOptions
from pipeline.arms.incremental_update import EarlierPosterior, updated_posterior
from pipeline.arms.learning import TrainedMember, learn_member
from pipeline.arms.member import rebuild_member
from pipeline.arms.source_knowledge import SourceKnowledge
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.execution.progress import ProgressFile
from pipeline.storage.atomic import write_record
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import HISTORY
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.computing import Computing, ComputingOptions, Precision
from pipeline.training.patches import PatchOptions, PatchSampler

MEMBER = "member.safetensors"
"""Weights and posterior of the trained member."""
TRAINING = "training.json"
"""What was trained, on whom: `TrainingRecord`."""


@dataclass(frozen=True)
class TrainingTask:
    """What one training does.

    Attributes:
        arm: the choices that it depends on (`ArmOptions.of_training`).
        network: which network.
        member: which of the independent trainings of its arms.
        n: number of target patients.
        repeat: which repeat.
        patients: the target patients' cases.
        snapshots: last snapshots of the source networks that the components of its posterior start from.
        references: last snapshots that the prior of the other weights is read from.
        priors: group → file of the fitted density.
        densities: group → options of that density.
        groups: group → layers of the source network.
        earlier: posterior that it is joined to, if it is.
    """

    arm: ArmOptions
    network: NetworkOptions
    member: int
    n: int
    repeat: int
    patients: Mapping[str, Sequence[CachedCase]]
    snapshots: Sequence[Path]
    references: Sequence[Path]
    priors: Mapping[str, Path]
    densities: Mapping[str, PriorOptions]
    groups: Mapping[str, Sequence[FilterLayer]]
    earlier: EarlierPosterior | None = None

    @property
    def first_case(self) -> CachedCase:
        """Any case: all have the same channels and classes."""
        return next(iter(self.patients.values()))[0]

    def knowledge(self) -> SourceKnowledge:
        """Reads what the member takes from the source."""
        return SourceKnowledge(
            [load_tensors(path) for path in self.snapshots],
            # Priors hold parameters that are learned on the target, so every member gets its own.
            load_priors(self.densities, self.priors),
            self.groups,
            [load_tensors(path) for path in self.references],
        )


def load_priors(densities: Mapping[str, PriorOptions], files: Mapping[str, Path]) -> dict[str, FilterPrior]:
    """Reads the fitted density of every group."""
    return {group: load_prior(densities[group], load_tensors(path)) for group, path in files.items()}


@dataclass(frozen=True)
class TrainingSettings:
    """What is common to all trainings of a study.

    Attributes:
        options: how the target is learned.
        patches: of the sampler.
        augmentation: of the patches.
        seed: the study's.
        device: where to train.
        computing: precision and the like; predictions are made in float32.
        workers: background processes that draw the batches.
    """

    options: TargetTrainingOptions
    patches: PatchOptions
    augmentation: AugmentationOptions
    seed: int
    device: str
    computing: ComputingOptions = field(default_factory=lambda: ComputingOptions(precision=Precision.FLOAT32))
    workers: int = 0


class TrainingRecord(StoredRecord):
    """The content of `training.json`."""

    arm: Annotated[ArmOptions, WHOLE]
    """The choices that it depends on."""
    member: int
    """Which of the independent trainings of its arms."""
    n: int
    """Number of target patients."""
    repeat: int
    """Which repeat."""
    patients: tuple[str, ...]
    """Names of the target patients."""
    steps: int
    """Optimiser steps."""
    started_anew: tuple[str, ...] = ()
    """Parameters of the network that did not fit the source's and started anew."""
    about: dict[str, Any] = Field(default_factory=dict)
    """What else is told of it, such as the weights of a mixture's components."""


def member_seed(seed: int, repeat: int, member: int) -> int:
    """Seed of all randomness of a member: never a function of the arm.

    Arms see the same patches and, where they start at random, the same weights.
    """
    return stream_seed(seed, "target", repeat, member)


def train_member(folder: Path, progress: ProgressFile, *, task: TrainingTask, settings: TrainingSettings) -> None:
    """Trains one member and writes its weights, its history and what it is.

    Raises:
        TrainingError: the loss is not finite.
        ModelError: a posterior to be updated is of another network.
    """
    trained = _learn(task, settings, progress)
    if task.earlier is not None:
        trained = _joined(trained, task.earlier, task, settings)
    save_tensors(folder / MEMBER, trained.model.state_dict())
    trained.history.write(folder / HISTORY)
    record = TrainingRecord(
        arm=task.arm,
        member=task.member,
        n=task.n,
        repeat=task.repeat,
        patients=tuple(task.patients),
        steps=settings.options.steps,
        started_anew=tuple(trained.started_anew),
        about=trained.about,
    )
    write_record(folder / TRAINING, record)


def read_training(folder: Path) -> TrainingRecord:
    """Reads what a training is.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / TRAINING, TrainingRecord, "delete its folder and run `graft infer` again")


def load_member(folder: Path, arm: ArmOptions, network: TargetNetwork) -> BayesianNetwork:
    """Reads a trained member, ready to predict.

    Args:
        folder: of the training.
        arm: the choices of the arm that it serves; its posterior's settings say how draws are made.
        network: which network.

    Raises:
        ModelError: the weights are of other options.
        WorkspaceError: the file is missing or damaged.
    """
    return rebuild_member(arm, network, load_tensors(folder / MEMBER))


def _learn(task: TrainingTask, settings: TrainingSettings, progress: ProgressFile) -> TrainedMember:
    arm = task.arm
    seed = member_seed(settings.seed, task.repeat, task.member)
    patches = PatchSampler(
        list(task.patients.values()),
        settings.patches,
        Augmentation(settings.augmentation),
        stream_seed(seed, "patches", task.n),
    )
    return learn_member(
        arm,
        settings.options,
        TargetNetwork.of(task.network, task.first_case),
        task.knowledge(),
        BackgroundSampler(patches, settings.options.steps * arm.components, settings.workers),
        seed,
        Computing(settings.computing, settings.device),
        progress,
    )


def _joined(
    trained: TrainedMember, earlier: EarlierPosterior, task: TrainingTask, settings: TrainingSettings
) -> TrainedMember:
    """Joins the posterior of a member to that of an earlier unit."""
    old = earlier.read(TargetNetwork.of(task.network, task.first_case))
    joined = updated_posterior(old.to(settings.device), trained.model, task.arm.trainable, task.arm.update_share)
    return TrainedMember(joined.eval(), trained.history, trained.started_anew, trained.about)
