"""Training an image model on scans whose labels are not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data.random_streams import stream_seed
from models.image_models.image_model import ImageModel, build_image_model
from models.networks.factory import NetworkOptions, head_parameters
from models.networks.weight_transfer import start_from_source
from pipeline.execution.progress import ProgressFile
from pipeline.storage.cached_image import FOREGROUND, CachedImage
from pipeline.storage.tensors import load_tensors
from pipeline.training.augmentation import Augmentation, AugmentationOptions
from pipeline.training.background import BackgroundSampler
from pipeline.training.checkpoint import Checkpoints, Resumption
from pipeline.training.computing import Computing, ComputingOptions
from pipeline.training.image_model_files import ImageModelRecord, write_image_model
from pipeline.training.image_model_options import ImageModelOptions
from pipeline.training.image_model_pictures import write_pictures
from pipeline.training.loop import StepLoss, TrainingPlan, train
from pipeline.training.patches import PatchOptions, PatchSampler
from pipeline.training.schedule import cosine_cycles
from pipeline.training.tracking import TrackingOptions, open_trackers
from pipeline.training.training_log import TrainingLog


@dataclass(frozen=True)
class ImageModelTask:
    """The inputs of the training.

    Attributes:
        name: of the model.
        seed: of the study.
        patients: `source`, `pool`, … → patient → scans.
        network: options of the trunk.
        options: of the model and its training.
        patches: size and number of the patches; all are drawn without bias.
        augmentation: of the patches (`of_images`).
        computing: precision and the like.
        start: last snapshot of the source network that it goes on from, if any.
    """

    name: str
    seed: int
    patients: Mapping[str, Mapping[str, Sequence[CachedImage]]]
    network: NetworkOptions
    options: ImageModelOptions
    patches: PatchOptions
    augmentation: AugmentationOptions
    computing: ComputingOptions
    start: Path | None = None

    @property
    def scans(self) -> list[CachedImage]:
        """All scans that it learns from."""
        return [scan for own in self.patients.values() for scans in own.values() for scan in scans]

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        own = self.options
        warm_up = round(own.warm_up * own.steps)
        return cosine_cycles(step, cycle=own.steps, peak=own.peak_rate, floor=own.floor_rate, warm_up=warm_up)


def of_images(augmentation: AugmentationOptions) -> AugmentationOptions:
    """The transforms of images that are to be reconstructed: none that only takes away what is to be learned."""
    return augmentation.model_copy(update={"noise": 0.0, "blur": 0.0, "low_resolution": 0.0})


def train_image_model(
    folder: Path,
    progress: ProgressFile,
    *,
    task: ImageModelTask,
    device: str,
    workers: int = 0,
    tracking: TrackingOptions | None = None,
    checkpoint_steps: int = 0,
    checkpoint_seconds: float = 0,
) -> None:
    """Trains an image model and writes its weights, history, record and pictures; resumes from a checkpoint.

    `workers` background processes draw the batches.

    Raises:
        TrainingError: the loss is not finite; the state before that step is kept.
        ModelError: the objective needs a bottleneck, and that of the network is not known.
        StopRequestedError: the command was asked to stop; a checkpoint is written.
    """
    computing = Computing(task.computing, device)
    seed, own = stream_seed(task.seed, "image-model", task.name), task.options
    model = build_image_model(task.network, own.objective, task.scans[0].channels, stream_seed(seed, "weights"))
    anew = _start(model, task.start)
    computing.place(model)
    checkpoints = Checkpoints(folder, checkpoint_steps, checkpoint_seconds, lambda: progress.stop_requested)
    resumption = Resumption(checkpoints, {"model": model})
    with TrainingLog(folder, open_trackers(tracking or TrackingOptions(), folder), start=resumption.steps_done) as log:
        train(
            [{"params": list(model.parameters())}],
            _step_loss(task, model, computing, workers, seed),
            TrainingPlan(own.steps, task.rate, own.optimiser, seed, own.log_every),
            after_step=lambda step, _row: progress((step + 1) / own.steps),
            computing=computing,
            history=log,
            resumption=resumption,
        )
    log.finish()
    record = ImageModelRecord(
        name=task.name,
        objective=own.objective,
        network=task.network,
        channels=task.scans[0].channels,
        patch=task.patches.size,
        steps=own.steps,
        patients={role: tuple(patients) for role, patients in task.patients.items()},
        scans=len(task.scans),
        from_source=task.start is not None,
        started_anew=tuple(anew),
    )
    generator = torch.Generator().manual_seed(stream_seed(seed, "pictures"))
    write_pictures(folder, model.eval(), task.scans, task.patches.size, generator, computing.device)
    write_image_model(folder, model, record)
    # In this order: a checkpoint relies on the lines of the log.
    checkpoints.remove()
    log.remove()


def _start(model: ImageModel, source: Path | None) -> list[str]:
    """Starts the trunk from a source network; its last layer stands for something else, whatever its shape is."""
    if source is None:
        return []
    head = set(head_parameters(model.network))
    state = {name: weight for name, weight in load_tensors(source).items() if name not in head}
    return start_from_source(model.network, state)


def _step_loss(
    task: ImageModelTask, model: ImageModel, computing: Computing, workers: int, seed: int
) -> Callable[[int], StepLoss]:
    patients = [scans for own in task.patients.values() for scans in own.values()]
    unbiased = task.patches.model_copy(update={"foreground_share": 0.0})
    patches = PatchSampler(patients, unbiased, Augmentation(task.augmentation), stream_seed(seed, "patches"))
    sampler = BackgroundSampler(patches, task.options.steps, workers)

    def step_loss(step: int) -> StepLoss:
        model.train()
        images, codes, names = sampler.batch(step)
        generator = torch.Generator().manual_seed(stream_seed(seed, "corruption", step))
        with computing.autocast():
            found = model.loss(computing.images(images), (codes == FOREGROUND).to(computing.device), generator)
        return StepLoss(found.loss, found.terms, names)

    return step_loss
