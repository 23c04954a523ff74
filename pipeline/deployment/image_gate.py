"""A gate by an image model: how badly it reconstructs a scan, or how improbable the scan is to it.

What is usual is told by scans that the image model has not learned from: those of the tested patients of the study,
whose labels are not read. `denoising` scores by the error of its reconstruction, `variational` by the negative
importance-weighted bound in nats per voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from data.errors import GraftError, ModelError
from data.random_streams import stream_seed
from data.stored_record import WHOLE, StoredRecord
from models.image_models.image_model import ImageModel, build_image_model
from models.image_models.objectives import Denoising, ImageObjective, Variational
from models.networks.factory import NetworkOptions
from models.score_tail import ScoreTail
from pipeline.deployment.judgement import AGAIN, Judgement, TailRecord
from pipeline.execution.progress import ProgressFile
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.file_names import GATE
from pipeline.storage.tensors import load_about, load_tensors, save_tensors
from pipeline.training.image_model_files import read_image_model

MOST_SCANS = 40
"""Scans by which it is calibrated at most: one more would change little."""


def scores_scans(objective: ImageObjective) -> bool:
    """Whether an image model of this kind is a gate."""
    return isinstance(objective, Denoising | Variational)


class ImageGateRecord(StoredRecord):
    """The description of the gate of an image model; it names no patient."""

    name: str
    """Name of the image model in its study."""
    objective: Annotated[ImageObjective, WHOLE, Field(discriminator="kind")]
    """What it learned."""
    network: Annotated[NetworkOptions, WHOLE]
    """Its trunk."""
    channels: int
    """Image channels."""
    patch: tuple[int, int, int]
    """Voxels of the windows that it scores a scan by."""
    scans: int
    """Scans that calibrate it, of patients from whom it has not learned."""
    tail: TailRecord
    """Their scores."""


@dataclass(frozen=True)
class ImageGateTask:
    """What an image model is calibrated by.

    Attributes:
        image_model: folder of the trained model.
        cases: scans of patients from whom it has not learned.
        device: `cpu` or `cuda`.
    """

    image_model: Path
    cases: Sequence[CachedCase]
    device: str


@dataclass(frozen=True)
class ImageGate:
    """An image model and what scores of it are usual."""

    record: ImageGateRecord
    model: ImageModel

    @classmethod
    def read(cls, path: Path, device: str) -> ImageGate:
        """Reads it.

        Raises:
            ModelError: it is damaged.
        """
        try:
            record = ImageGateRecord.model_validate(load_about(path))
            model = build_image_model(record.network, record.objective, record.channels)
            model.load_state_dict(load_tensors(path))
        except (GraftError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path}: cannot be read", expected="the gate that `graft infer` wrote", fix=AGAIN
            ) from error
        return cls(record, model.to(device).requires_grad_(False).eval())

    def judge(self, image: Tensor, content: Tensor, percentile: float) -> Judgement:
        """Says how unlike the scans a scan is that the image model has learned from.

        Args:
            image: `[C, X, Y, Z]`, preprocessed, on the device of the model.
            content: `[X, Y, Z]` bool, where there is something of the patient.
            percentile: of scans like those of the study, up to which nothing is said; 1 allows all.
        """
        value, where = _score(self.model, self.record.patch, image, content)
        return Judgement.of(f"image model {self.record.name}", value, self.record.tail.tail(), percentile, where)


def _score(model: ImageModel, patch: Sequence[int], image: Tensor, content: Tensor) -> tuple[float, Tensor]:
    inside = (content if content.any() else torch.ones_like(content)).to(image.device)
    generator = torch.Generator().manual_seed(stream_seed(0, "image-gate"))
    value, where = model.score(image, inside, generator, patch)
    return value, where.cpu()


def fit_image_gate(folder: Path, progress: ProgressFile, *, task: ImageGateTask) -> None:
    """Scores scans of patients whom an image model has not seen, and writes it with what is usual.

    Raises:
        WorkspaceError: a file of the image model or a scan is missing or damaged.
    """
    model, about = read_image_model(task.image_model)
    model.to(task.device)
    scores = []
    for number, case in enumerate(task.cases):
        image, content = case.image().to(task.device), case.mask()
        scores.append(_score(model, about.patch, image, content)[0])
        progress((number + 1) / len(task.cases))
    positive = isinstance(about.objective, Denoising)
    record = ImageGateRecord(
        name=about.name,
        objective=about.objective,
        network=about.network,
        channels=about.channels,
        patch=about.patch,
        scans=len(task.cases),
        tail=TailRecord(**asdict(ScoreTail.of(scores, [case.patient for case in task.cases], logarithmic=positive))),
    )
    save_tensors(folder / GATE, model.state_dict(), record.as_json())
