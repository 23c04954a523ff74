"""A tiny source, and a bench on which arms learn from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from data.modality import Modality
from models.filter_bank import FilterBank, SourceState
from models.filters import FilterGrouping, FilterLayer, filter_layers, filter_positions, group_layers
from models.heads import Heads
from models.image_models.image_model import build_image_model, trunk_weights
from models.image_models.objectives import Denoising
from models.networks.factory import build_network
from models.networks.residual_unet import ResidualUNetOptions
from models.priors.displacement import DisplacementOptions
from models.priors.factory import PriorOptions, build_prior, needs_starts
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.prior import FilterPrior
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.standardisation import Covariance
from models.priors.vae_options import Condition, FilterVAEOptions
from pipeline.arms.arm_record import ArmRecord
from pipeline.arms.choices import ArmOptions, Initialisation
from pipeline.arms.learning import TrainedMember, learn_member
from pipeline.arms.prediction_unit import PredictionTask, predict_test_cases
from pipeline.arms.pseudo_labels import Teacher
from pipeline.arms.pseudo_patches import PseudoSampler
from pipeline.arms.source_knowledge import SourceKnowledge
from pipeline.arms.starting_point import mean_state
from pipeline.arms.target_network import TargetNetwork
from pipeline.arms.target_training_options import TargetTrainingOptions
from pipeline.arms.training_unit import TrainingSettings, TrainingTask, member_seed, train_member
from pipeline.deployment.arm_model import ArmTask, TestedFold, write_arm
from pipeline.deployment.model_description import ModelOrigin
from pipeline.deployment.updatable_model import find_updatable
from pipeline.execution.progress import ProgressFile
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.prediction.stored_prediction import StoredPrediction, prediction_name
from pipeline.prediction.temperature import as_stored
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import save_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.computing import Computing, ComputingOptions, Precision
from pipeline.training.image_model_files import MODEL
from pipeline.training.patches import PatchOptions, PatchSampler
from preprocessing.chain import default_options

NETWORK = ResidualUNetOptions(channels=(4, 6, 8), encoder_blocks=(0, 1, 2))
OFF = AugmentationOptions(affine=0, noise=0, blur=0, brightness=0, gamma=0, low_resolution=0)
PATCHES = PatchOptions(size=(16, 16, 16), batch=1)
# Not the Gaussian that it would start from: that one may be the best after so few steps, and its bound has no gap.
SMALL_VAE = FilterVAEOptions(latent=2, hidden=(8,), max_steps=20, batch=64, start_at_gaussian=False)
AT_POSITIONS = GaussianOptions(centre=Centre.SOURCE_POSITION, covariance=Covariance.ISOTROPIC, network=0)
DENSITIES: dict[str, PriorOptions] = {
    "vae": SMALL_VAE,
    "vae_conditional": SMALL_VAE.model_copy(update={"condition": Condition.LAYER}),
    "isotropic": GaussianOptions(covariance=Covariance.ISOTROPIC),
    "gaussian_full": GaussianOptions(),
    "gaussian_source": AT_POSITIONS,
    "reuse_or_redraw": ReuseOrRedrawOptions(position=AT_POSITIONS, shape=SMALL_VAE),
    "gaussian_branches": GaussianOptions(centre=Centre.BRANCHES, shrinkage=None),
    "displacement": DisplacementOptions(),
}
SEED = 11
ORIGIN = ModelOrigin(
    study="s", modality=Modality.MR, channels=("T1",), preprocessing=default_options(Modality.MR), network=NETWORK,
    patch=PATCHES.size, window=SlidingWindowOptions(), flip_axes=(),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Three source networks (at their start), and densities fitted to two snapshots of each.

    Densities that need it are told that all started from half of the first network, as from a trunk.
    """

    states: tuple[dict[str, torch.Tensor], ...]
    groups: Mapping[str, tuple[FilterLayer, ...]]
    priors: Mapping[str, Mapping[str, FilterPrior]]


@pytest.fixture(scope="session")
def source() -> Source:
    networks = [build_network(NETWORK, 1, 2, number) for number in range(3)]
    states = tuple(network.state_dict() for network in networks)
    snapshots = [SourceState(i, 1, state) for i, state in enumerate(states)]
    snapshots += [SourceState(i, 0, {k: 0.9 * v for k, v in state.items()}) for i, state in enumerate(states)]
    groups, layers = group_layers(networks[0], FilterGrouping.CONSECUTIVE), filter_layers(networks[0])
    priors: dict[str, dict[str, FilterPrior]] = {}
    for name, options in DENSITIES.items():
        for group, members in groups.items():
            positions = filter_positions(members, layers)
            bank = FilterBank.concatenate([FilterBank.from_state(s, members, positions) for s in snapshots])
            trunk = {key: 0.5 * value for key, value in states[0].items()}
            starts = [FilterBank.from_state(SourceState(i, 0, trunk), members, positions) for i in range(3)]
            bank = bank.with_starts(FilterBank.concatenate(starts)) if needs_starts(options) else bank
            prior = build_prior(options)
            prior.fit(bank, torch.Generator().manual_seed(0))
            priors.setdefault(name, {})[group] = prior
    return Source(states, groups, priors)


def training_options(**changes) -> TargetTrainingOptions:
    return TargetTrainingOptions(**({"arms": ["random"], "steps": 3, "floor_rate": 0.0} | changes))


@dataclass(frozen=True)
class BenchTask:
    """An arm, its trainings, and the cases to predict."""

    name: str
    arm: ArmOptions
    trainings: list[TrainingTask]
    test: list[CachedCase]


@dataclass(frozen=True)
class Bench:
    """Lets an arm learn on small noise with a bright cube."""

    source: Source
    make_case: Callable[..., CachedCase]
    folder: Path
    network: ResidualUNetOptions = NETWORK
    patches: PatchOptions = PATCHES
    seed: int = SEED

    def knowledge(self, arm: ArmOptions) -> SourceKnowledge:
        states = [self.source.states[k % 3] for k in range(arm.components)] if arm.needs_source else []
        if arm.init is Initialisation.BRANCHES:
            states = [mean_state(self.source.states)] * arm.components
        if arm.image_model is not None:
            trunk = trunk_weights(build_network(NETWORK, 1, 2), self.image_state)
            states = [trunk] * arm.components
        priors = copy.deepcopy(dict(self.source.priors[arm.prior])) if arm.needs_prior else {}
        references = self.source.states if arm.needs_references else ()
        return SourceKnowledge(states, priors, self.source.groups if arm.needs_prior else {}, references)

    def teacher(self, classes: Mapping[str, tuple[int, ...]] | None = None, channels: int = 1) -> Teacher:
        """Two unlabelled scans in which their cube was found, with one uncertain face, and in it what overlaps it."""
        named = classes or {"class_1": (1,)}
        folder, heads = self.folder / "pseudo-labels", Heads.of(named)
        cases = []
        for name in ("v", "w"):
            case = self.make_case(name, classes=named, channels=channels, labelled=False)
            cases.append(case)
            found = np.full((len(named), *case.shape), 0.01, np.float32)
            found[0, 4:9, 5:10, 6:11] = 0.9
            if heads is Heads.OVERLAPPING:
                found[1, 5:7, 6:8, 7:9] = 0.9
            information = np.zeros(case.shape, np.float32)
            information[4, 5:10, 6:11] = 0.2
            whole = found if heads is Heads.OVERLAPPING else np.concatenate([1 - found.sum(0, keepdims=True), found])
            StoredPrediction(
                name, case.image_digest, tuple(named), case.affine, 2, as_stored(torch.from_numpy(whole)),
                torch.from_numpy(information).half(), None, heads,
            ).write(folder / prediction_name(name))  # fmt: skip
        return Teacher(folder, cases, self.folder / "before")

    def pseudo_sampler(self, arm: ArmOptions, channels: int = 1) -> PseudoSampler:
        judged = self.teacher(channels=channels).judged(
            [self.make_case("a", channels=channels, classes={"class_1": (1,)})], arm.unlabelled
        )
        return PseudoSampler(judged.cases, PATCHES, Augmentation(OFF, soft=True), SEED)

    def sampler(self, channels: int = 1) -> PatchSampler:
        case = self.make_case("a", channels=channels)
        return PatchSampler([[case]], PATCHES, Augmentation(OFF), SEED)

    def learn(
        self, arm: ArmOptions, known: SourceKnowledge | None = None, channels: int = 1, **changes
    ) -> TrainedMember:
        return learn_member(
            arm,
            training_options(**changes),
            TargetNetwork(NETWORK, channels, 2),
            known or self.knowledge(arm),
            self.sampler(channels),
            SEED,
            Computing(ComputingOptions(precision=Precision.FLOAT32), "cpu"),
            lambda fraction: None,
            Checkpoints(self.folder),
            self.pseudo_sampler(arm, channels) if arm.rounds else None,
        )

    def task(self, arm: ArmOptions, name: str = "arm", classes: int = 1) -> BenchTask:
        snapshots, priors = [], {}
        for number, state in enumerate(self.source.states):
            snapshots.append(self.folder / f"network-{number}.safetensors")
            save_tensors(snapshots[-1], state)
        if arm.needs_prior:
            for group, prior in self.source.priors[arm.prior].items():
                priors[group] = self.folder / f"{group}.safetensors"
                save_tensors(priors[group], prior.state_dict())
        named = {f"class_{k}": (k,) for k in range(1, classes + 1)}
        patients = {p: [self.make_case(c, classes=named)] for p, c in (("p", "a"), ("q", "b"))}
        earlier = (
            None if arm.update_from is None else find_updatable(arm.update_from, TargetNetwork(NETWORK, 1, classes + 1))
        )
        trainings = [
            TrainingTask(
                arm=arm.of_training(),
                network=TargetNetwork(NETWORK, 1, classes + 1),
                member=member,
                n=2,
                repeat=0,
                patients=patients,
                snapshots=self._started_from(arm, member, snapshots),
                references=snapshots if arm.needs_references else (),
                priors=priors,
                densities=dict.fromkeys(priors, DENSITIES[arm.prior]) if arm.needs_prior else {},
                groups=self.source.groups if arm.needs_prior else {},
                earlier=None if earlier is None else earlier.member(member),
                teacher=self.teacher(named) if arm.rounds else None,
                image_model=None if arm.image_model is None else self._image_model(),
            )
            for member in range(arm.members)
        ]
        test = [self.make_case("t", 20, classes=named), self.make_case("u", 14, classes=named)]
        return BenchTask(name, arm, trainings, test)

    @property
    def image_state(self) -> dict[str, torch.Tensor]:
        """The weights of an image model, at its start."""
        return build_image_model(NETWORK, Denoising(), 1, 5).state_dict()

    def _image_model(self) -> Path:
        save_tensors(self.folder / "image-model" / MODEL, self.image_state)
        return self.folder / "image-model"

    @staticmethod
    def _started_from(arm: ArmOptions, member: int, snapshots: list[Path]) -> list[Path]:
        if arm.init is Initialisation.BRANCHES:
            return snapshots
        every = [snapshots[(member * arm.components + k) % 3] for k in range(arm.components)]
        return every if arm.needs_source else []

    def run(self, task: BenchTask, folder: Path, seed: int = SEED) -> dict[str, bytes]:
        """Trains, predicts and writes the arm; returns all files by name.

        They lie in `train-M/` of each member, `predictions/`, and in the folder itself for the arm.
        """
        arm = task.arm
        trainings = {f"train-{training.member}": folder / f"train-{training.member}" for training in task.trainings}
        predictions = folder / "predictions"
        for path in (*trainings.values(), predictions):
            path.mkdir(parents=True)
        progress = ProgressFile(folder.parent / "progress")
        settings = TrainingSettings(training_options(), PATCHES, OFF, seed, "cpu")
        for training, path in zip(task.trainings, trainings.values(), strict=True):
            train_member(path, progress, task=training, settings=settings)
        seeds = [member_seed(seed, 0, member) for member in range(arm.members)]
        window = SlidingWindowOptions()
        prediction = PredictionTask(
            arm.of_prediction(), list(trainings.values()), seeds, NETWORK, PATCHES.size, window, "cpu", task.test,
            {case.name: case.image_digest for case in task.test}, predictions,
        )  # fmt: skip
        predict_test_cases(predictions, progress, task=prediction)
        record = ArmRecord(
            arm=task.name, n=2, repeat=0, patients=tuple(task.trainings[0].patients), steps=settings.options.steps,
            choices=arm, objective="none", trainings=tuple(trainings), predictions=("predictions",),
        )  # fmt: skip
        write_arm(
            folder,
            progress,
            task=ArmTask(
                record=record,
                classes=task.test[0].classes,
                cases=[case for cases in task.trainings[0].patients.values() for case in cases],
                seeds=seeds,
                trainings=list(trainings.values()),
                folds=[TestedFold(predictions, task.test)],
                reading=None,
                origin=ORIGIN,
            ),
        )
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def bench(source: Source, make_case: Callable[..., CachedCase], tmp_path: Path) -> Bench:
    return Bench(source, make_case, tmp_path)
