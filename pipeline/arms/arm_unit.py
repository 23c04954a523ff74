"""One arm on one training subset: train its members, predict the test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.random_streams import stream_seed
from models.bayesian_network import BayesianNetwork
from models.filters import FilterLayer
from models.networks.factory import NetworkOptions
from models.priors.factory import PriorOptions, load_prior
from models.priors.prior import FilterPrior
from pipeline.arms.choices import ArmOptions
from pipeline.arms.incremental_update import read_posterior, updated_posterior
from pipeline.arms.inference_options import InferenceOptions
from pipeline.arms.learning import TrainedMember, learn_member
from pipeline.arms.objective_name import objective_name
from pipeline.arms.prediction import WeightDraws, predict_cases, save_prediction, weight_draws
from pipeline.arms.source_knowledge import SourceKnowledge
from pipeline.arms.unit_files import PREDICTIONS, UNIT, history_name
from pipeline.deployment.arm_model import DicePairs, TrainedArm, write_arm_model
from pipeline.deployment.model_description import ModelOrigin
from pipeline.deployment.model_folder import MODEL_FOLDER
from pipeline.progress import ProgressFile
from pipeline.storage.atomic import write_json
from pipeline.storage.tensors import load_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.cached_case import CachedCase
from pipeline.training.computing import ComputingOptions, Precision
from pipeline.training.patches import PatchOptions, PatchSampler

_TRAINING_SHARE = 0.9


@dataclass(frozen=True)
class ArmTask:
    """What one unit of the study does.

    Attributes:
        name: of the arm.
        arm: its choices.
        n: number of target patients.
        repeat: which repeat.
        patients: the target patients' cases.
        test: cases to predict.
        snapshots: last snapshots of the source networks to start from, each member's components in turn.
        references: last snapshots that the prior of the other weights is read from.
        priors: group → file of the fitted density.
        densities: group → options of that density.
        groups: group → layers of the source network.
    """

    name: str
    arm: ArmOptions
    n: int
    repeat: int
    patients: Mapping[str, Sequence[CachedCase]]
    test: Sequence[CachedCase]
    snapshots: Sequence[Path]
    references: Sequence[Path]
    priors: Mapping[str, Path]
    densities: Mapping[str, PriorOptions]
    groups: Mapping[str, Sequence[FilterLayer]]

    def member_snapshots(self, number: int) -> list[Path]:
        """The snapshots that the components of a member start from; none if the arm takes none."""
        if not self.snapshots:
            return []
        first = number * self.arm.components
        return [self.snapshots[(first + k) % len(self.snapshots)] for k in range(self.arm.components)]

    def knowledge(self, number: int) -> SourceKnowledge:
        """Reads what a member takes from the source."""
        return SourceKnowledge(
            [load_tensors(path) for path in self.member_snapshots(number)],
            # Priors hold parameters that are learned on the target, so every member gets its own.
            load_priors(self.densities, self.priors),
            self.groups,
            [load_tensors(path) for path in self.references],
        )


def load_priors(densities: Mapping[str, PriorOptions], files: Mapping[str, Path]) -> dict[str, FilterPrior]:
    """Reads the fitted density of every group."""
    return {group: load_prior(densities[group], load_tensors(path)) for group, path in files.items()}


@dataclass(frozen=True)
class ArmSettings:
    """What is common to all arms of a study.

    Attributes:
        options: of the inference stage.
        network: which network.
        patches: of the sampler.
        augmentation: of the patches.
        origin: what the study knows of the target.
        seed: the study's.
        device: where to train.
        computing: precision and the like of the training; predictions are made in float32.
        workers: background processes that draw the batches.
    """

    options: InferenceOptions
    network: NetworkOptions
    patches: PatchOptions
    augmentation: AugmentationOptions
    origin: ModelOrigin
    seed: int
    device: str
    computing: ComputingOptions = field(default_factory=lambda: ComputingOptions(precision=Precision.FLOAT32))
    workers: int = 0


def learn_and_predict(folder: Path, progress: ProgressFile, *, task: ArmTask, settings: ArmSettings) -> None:
    """Trains every member of the arm, predicts every test case and writes the model folder.

    All randomness is a function of the seed, the size, the repeat and the member, and never of the arm: arms see the
    same patches and, where they start at random, the same weights.

    Raises:
        TrainingError: the loss is not finite.
        ModelError: a posterior to be updated is of another network.
    """
    seeds = [stream_seed(settings.seed, "target", task.repeat, number) for number in range(task.arm.members)]
    trained: list[TrainedMember] = []
    for number, seed in enumerate(seeds):
        trained.append(_learn(task, settings, number, seed, progress))
        trained[-1].history.write(folder / history_name(number))
    members = [
        (member.model, weight_draws(member.model, task.arm.draws, seed, settings.device))
        for member, seed in zip(trained, seeds, strict=True)
    ]
    pairs = _predict(folder, task, settings, members, progress)
    objective = objective_name(task.arm, settings.options, settings.patches)
    model = TrainedArm(
        task.name,
        task.arm,
        objective,
        task.repeat,
        settings.network,
        settings.patches.size,
        settings.options.window,
        settings.augmentation.flip_axes,
        task.patients,
        seeds,
    )
    write_arm_model(folder / MODEL_FOLDER, model, settings.origin, [member.model for member in trained], pairs)
    about = {
        "arm": task.name,
        "n": task.n,
        "repeat": task.repeat,
        "patients": list(task.patients),
        "steps": settings.options.steps,
        "choices": task.arm.model_dump(mode="json"),
        "objective": objective,
        "started_anew": trained[0].started_anew,
        "members": [member.about for member in trained],
    }
    write_json(folder / UNIT, about)


def _learn(task: ArmTask, settings: ArmSettings, number: int, seed: int, progress: ProgressFile) -> TrainedMember:
    """Trains one member and, if the arm says so, joins its posterior to an earlier one."""
    first, arm = task.test[0], task.arm
    patches = PatchSampler(
        list(task.patients.values()),
        settings.patches,
        Augmentation(settings.augmentation),
        stream_seed(seed, "patches", task.n),
    )
    sampler = BackgroundSampler(patches, settings.options.steps * arm.components, settings.workers)
    classes = len(first.classes) + 1
    member = learn_member(
        arm,
        settings.options,
        settings.network,
        first.channels,
        classes,
        task.knowledge(number),
        sampler,
        seed,
        settings.device,
        lambda fraction: progress(_TRAINING_SHARE * (number + fraction) / arm.members),
        settings.computing,
    )
    if arm.update_from is not None:
        member = _joined(member, arm.update_from, task, settings, number)
    member.model.logit_temperature = arm.logit_temperature
    return member


def _joined(member: TrainedMember, earlier: Path, task: ArmTask, settings: ArmSettings, number: int) -> TrainedMember:
    """Joins the posterior of a member to that of an earlier unit."""
    first, arm = task.test[0], task.arm
    classes = len(first.classes) + 1
    old = read_posterior(earlier, number, settings.network, first.channels, classes)
    joined = updated_posterior(old.to(settings.device), member.model, arm.trainable, arm.update_share)
    return TrainedMember(joined.eval(), member.history, member.started_anew, member.about)


def _predict(
    folder: Path,
    task: ArmTask,
    settings: ArmSettings,
    members: Sequence[tuple[BayesianNetwork, WeightDraws]],
    progress: ProgressFile,
) -> DicePairs:
    """Predicts the test cases and returns their expected and real Dice."""
    pairs = DicePairs()
    predictions = predict_cases(
        members,
        task.test,
        settings.patches.size,
        settings.options.window,
        settings.device,
        lambda share: progress(_TRAINING_SHARE + (1 - _TRAINING_SHARE) * share),
    )
    for case, prediction in predictions:
        save_prediction(prediction, case, task.arm, folder / PREDICTIONS / f"{case.name}.safetensors")
        pairs.add(prediction.average, case, task.arm.mask)
    return pairs
