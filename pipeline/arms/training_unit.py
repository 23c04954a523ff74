"""One training: a member of one way of learning the target, shared by all arms that learn alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from data.errors import ModelError, TrainingError
from data.random_streams import stream_seed
from data.stored_record import WHOLE, StoredRecord, read_record
from models.bayesian_network import BayesianNetwork
from models.filters import FilterLayer
from models.heads import Heads
from models.image_models.image_model import trunk_weights
from models.networks.factory import head_parameters
from models.priors.factory import PriorOptions, load_prior
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.incremental_update import EarlierPosterior, updated_posterior
from pipeline.arms.kl_trend import KLTrend, kl_trends
from pipeline.arms.learning import TrainedMember, learn_member, starting_networks
from pipeline.arms.member import assemble_member
from pipeline.arms.member_file import read_member, write_member
from pipeline.arms.pseudo_labels import PseudoLabels, PseudoRecord, Teacher
from pipeline.arms.pseudo_patches import PseudoSampler
from pipeline.arms.source_knowledge import SourceKnowledge, State
from pipeline.arms.starting_point import mean_state
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.unlabelled_use import SelfTrainingOptions
from pipeline.arms.without_annotation import is_source_alone
from pipeline.execution.progress import ProgressFile
from pipeline.storage.atomic import link_or_copy, write_record
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import HISTORY
from pipeline.storage.tensors import load_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.computing import Computing, ComputingOptions, Precision
from pipeline.training.image_model_files import read_image_weights
from pipeline.training.patches import PatchOptions, PatchSampler

logger = logging.getLogger(__name__)

MEMBER = "member.safetensors"
"""Weights and posterior of the trained member."""
TRAINING = "training.json"
"""`TrainingRecord`: what was trained, and on which patients."""


@dataclass(frozen=True)
class TrainingTask:
    """The inputs of one training.

    Attributes:
        arm: the choices that it depends on (`ArmOptions.of_training`).
        network: the network of the target.
        member: number of the independent training.
        n: number of target patients.
        repeat: number of the repeat.
        patients: the target patients' cases; none with n = 0.
        snapshots: last snapshots of the source networks that the components of its posterior start from; with
            `init: branches`, of all networks, from whose mean they start.
        references: last snapshots that the prior of the other weights is fitted to.
        priors: group → file of the fitted density.
        densities: group → options of that density.
        groups: group → layers of the source network.
        earlier: posterior that it is combined with, if any.
        source_heads: what the output channels of the source networks stand for.
        image_model: folder of the image model that it starts from, if any.
        teacher: of a student in a round of self-training: the predictions of the round before.
    """

    arm: ArmOptions
    network: TargetNetwork
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
    source_heads: Heads = Heads.EXCLUSIVE
    image_model: Path | None = None
    teacher: Teacher | None = None

    @property
    def learns(self) -> bool:
        """Whether there is a training, and not source networks as they are."""
        return not is_source_alone(self.arm, self.n)

    def knowledge(self) -> SourceKnowledge:
        """Reads what the member takes from the source."""
        states: list[State] = [self._source(path) for path in self.snapshots]
        if self.arm.init is Initialisation.BRANCHES:
            states = [mean_state(states)] * self.arm.components
        if self.image_model is not None:
            trunk = trunk_weights(self._own_network(), read_image_weights(self.image_model))
            states = [trunk] * self.arm.components
        return SourceKnowledge(
            states,
            # Priors hold parameters that are learned on the target, so every member gets its own.
            {group: load_prior(self.densities[group], load_tensors(path)) for group, path in self.priors.items()},
            self.groups,
            [self._source(path) for path in self.references],
        )

    def _source(self, path: Path) -> dict[str, Tensor]:
        """Reads a source network, without its head if its channels stand for something of another kind."""
        state = load_tensors(path)
        if self.source_heads is self.network.heads:
            return state
        head = set(head_parameters(self._own_network()))
        return {name: tensor for name, tensor in state.items() if name not in head}

    def _own_network(self) -> nn.Module:
        return self.network.build(0)


@dataclass(frozen=True)
class TrainingSettings:
    """Settings common to all trainings of a study.

    Attributes:
        options: of the training.
        patches: of the sampler.
        augmentation: of the patches.
        seed: of the study.
        device: where to compute.
        computing: precision and the like.
        workers: processes that draw the batches.
        checkpoint_steps: steps between checkpoints; 0 for none by steps.
        checkpoint_seconds: time between checkpoints; 0 for none by time.
    """

    options: TargetTrainingOptions
    patches: PatchOptions
    augmentation: AugmentationOptions
    seed: int
    device: str
    computing: ComputingOptions = field(default_factory=lambda: ComputingOptions(precision=Precision.FLOAT32))
    workers: int = 0
    checkpoint_steps: int = 0
    checkpoint_seconds: float = 0


class TrainingRecord(StoredRecord):
    """The content of `training.json`."""

    arm: Annotated[ArmOptions, WHOLE]
    """The choices that it depends on."""
    member: int
    """Number of the independent training."""
    n: int
    """Number of target patients."""
    repeat: int
    """Number of the repeat."""
    patients: tuple[str, ...]
    """Names of the target patients."""
    steps: int
    """Optimiser steps; 0 for a source network as it is."""
    started_anew: tuple[str, ...] = ()
    """Parameters that did not fit the network that it started from and kept their random start."""
    kl: tuple[KLTrend, ...] = ()
    """Whether the KL had settled; of each component of a mixture. None without a KL, or with too few logged steps."""
    pseudo_labels: PseudoRecord | None = None
    """Of a student: the unlabelled scans that it learned from."""
    about: dict[str, Any] = Field(default_factory=dict)
    """Further facts, such as the weights of a mixture's components."""


def member_seed(seed: int, repeat: int, member: int) -> int:
    """Seed of all randomness of a member; it does not depend on the arm.

    Arms see the same patches and, where they start at random, the same weights.
    """
    return stream_seed(seed, "target", repeat, member)


def train_member(folder: Path, progress: ProgressFile, *, task: TrainingTask, settings: TrainingSettings) -> None:
    """Trains one member and writes its weights, history and record; resumes from a checkpoint in the folder.

    Where there is nothing to learn from, the member is its source network, and there is no history.

    A student that cannot learn, because no unlabelled scan enters or its loss is not finite, keeps the weights of the
    round before, and its record says why.

    Raises:
        TrainingError: the loss is not finite, in round 0.
        ModelError: the posterior to update belongs to a different network, or a source network that is to be used as
            it is does not fit the target.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    checkpoints = Checkpoints(
        folder, settings.checkpoint_steps, settings.checkpoint_seconds, lambda: progress.stop_requested
    )
    if not task.learns:
        _take_source_network(folder, task, settings)
        return
    pseudo = None if task.teacher is None else _pseudo_labels(task, task.teacher)
    if pseudo is not None and task.teacher is not None and not pseudo.cases:
        _keep_round_before(folder, task.teacher, task, settings, pseudo.record, _none_entered(pseudo.record))
        return
    try:
        trained = _learn(task, settings, progress, checkpoints, pseudo)
    except TrainingError as error:
        if pseudo is None or task.teacher is None:
            raise
        checkpoints.remove()
        _keep_round_before(folder, task.teacher, task, settings, pseudo.record, str(error))
        return
    if task.earlier is not None:
        trained = _joined(trained, task.earlier, task, settings)
    write_member(folder / MEMBER, trained.model)
    trained.history.finish()
    record = TrainingRecord(
        started_anew=tuple(trained.started_anew),
        kl=kl_trends(trained.history.rows),
        about=trained.about,
        **_told(task, settings, None if pseudo is None else pseudo.record),
    )
    write_record(folder / TRAINING, record)
    # In this order: a checkpoint relies on the lines of the log.
    checkpoints.remove()
    trained.history.remove()


def _take_source_network(folder: Path, task: TrainingTask, settings: TrainingSettings) -> None:
    """Makes the source network that a member starts from the member itself."""
    seed = member_seed(settings.seed, task.repeat, task.member)
    networks, anew = starting_networks(task.arm, task.network, task.knowledge(), seed)
    if anew:
        raise ModelError(
            f"the source network lacks weights of the target's: {', '.join(anew)}",
            expected="a source of the target's channels and classes, whose networks segment without a training",
            fix="remove 0 from `target_training.sizes`",
        )
    model = assemble_member(task.arm, networks[0], [own.state_dict() for own in networks])
    write_member(folder / MEMBER, model.eval())
    write_record(folder / TRAINING, TrainingRecord(**_told(task, settings, None)))


def _told(task: TrainingTask, settings: TrainingSettings, pseudo: PseudoRecord | None) -> dict[str, Any]:
    """What the record of any training says of its task."""
    return {
        "arm": task.arm,
        "member": task.member,
        "n": task.n,
        "repeat": task.repeat,
        "patients": tuple(task.patients),
        "steps": settings.options.steps if task.learns else 0,
        **({} if pseudo is None else {"pseudo_labels": pseudo}),
    }


def _pseudo_labels(task: TrainingTask, teacher: Teacher) -> PseudoLabels:
    """The unlabelled scans that a student learns from.

    Raises:
        WorkspaceError: a prediction of the teacher is missing or damaged.
    """
    options = task.arm.unlabelled
    if not isinstance(options, SelfTrainingOptions):
        raise TypeError("a training with a teacher is a round of self-training")
    return teacher.judged([case for cases in task.patients.values() for case in cases], options)


def _none_entered(record: PseudoRecord) -> str:
    reason = next(iter(record.left_out.values()), "there are none")
    return f"none of {len(record.left_out)} unlabelled scans entered the round ({reason})"


def _keep_round_before(
    folder: Path, teacher: Teacher, task: TrainingTask, settings: TrainingSettings, pseudo: PseudoRecord, why: str
) -> None:
    """Makes the member of the round before that of this round, too."""
    logger.warning("self-training stops before round %d: %s", pseudo.round, why)
    before = read_training(teacher.before)
    for left in folder.iterdir():
        left.unlink()
    for name in (MEMBER, HISTORY):
        link_or_copy(teacher.before / name, folder / name)
    record = TrainingRecord(
        started_anew=before.started_anew,
        kl=before.kl,
        about=before.about,
        **_told(task, settings, pseudo.model_copy(update={"stopped": why})),
    )
    write_record(folder / TRAINING, record)


def read_training(folder: Path) -> TrainingRecord:
    """Reads the record of a training.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / TRAINING, TrainingRecord, "delete its folder and run `graft infer` again")


def load_member(folder: Path, arm: ArmOptions, network: TargetNetwork) -> BayesianNetwork:
    """Reads a trained member, ready to predict.

    Args:
        folder: of the training.
        arm: the choices of the arm; the settings of its posterior say how draws are made.
        network: the network.

    Raises:
        ModelError: the weights do not fit these options.
        WorkspaceError: the file is missing or damaged.
    """
    return read_member(folder / MEMBER, arm, network)


def _learn(
    task: TrainingTask,
    settings: TrainingSettings,
    progress: ProgressFile,
    checkpoints: Checkpoints,
    pseudo: PseudoLabels | None,
) -> TrainedMember:
    seed = member_seed(settings.seed, task.repeat, task.member)
    patches = PatchSampler(
        list(task.patients.values()),
        settings.patches,
        Augmentation(settings.augmentation),
        stream_seed(seed, "patches", task.n),
    )
    steps = settings.options.steps * task.arm.components
    return learn_member(
        task.arm,
        settings.options,
        task.network,
        task.knowledge(),
        BackgroundSampler(patches, steps, settings.workers),
        seed,
        Computing(settings.computing, settings.device),
        progress,
        checkpoints,
        None if pseudo is None else BackgroundSampler(_pseudo_sampler(task, settings, pseudo), steps, settings.workers),
    )


def _pseudo_sampler(task: TrainingTask, settings: TrainingSettings, pseudo: PseudoLabels) -> PseudoSampler:
    seed = member_seed(settings.seed, task.repeat, task.member)
    batch = pseudo.cases[0].options.patches
    return PseudoSampler(
        pseudo.cases,
        settings.patches.model_copy(update={"batch": batch}),
        Augmentation(settings.augmentation, soft=True),
        stream_seed(seed, "unlabelled", pseudo.record.round),
    )


def _joined(
    trained: TrainedMember, earlier: EarlierPosterior, task: TrainingTask, settings: TrainingSettings
) -> TrainedMember:
    """Combines the posterior of a member with an earlier one."""
    old = earlier.read(task.network)
    joined = updated_posterior(old.to(settings.device), trained.model, task.arm.trainable, task.arm.update_share)
    return replace(trained, model=joined.eval())
