"""The files of a trained image model: its weights, and what it learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor

from data.errors import WorkspaceError
from data.stored_record import AGAIN, WHOLE, StoredRecord, read_record
from models.image_models.image_model import ImageModel, build_image_model
from models.image_models.objectives import ImageObjective
from models.networks.factory import NetworkOptions
from pipeline.storage.atomic import write_record
from pipeline.storage.tensors import load_tensors, save_tensors

MODEL = "model.safetensors"
"""Weights of the image model."""
ABOUT = "image-model.json"
"""`ImageModelRecord`."""


class ImageModelRecord(StoredRecord):
    """The content of `image-model.json`."""

    name: str
    """Its name in the study."""
    objective: Annotated[ImageObjective, WHOLE, Field(discriminator="kind")]
    """What it learned."""
    network: Annotated[NetworkOptions, WHOLE]
    """Its trunk."""
    channels: int
    """Image channels."""
    patch: tuple[int, int, int]
    """Voxels of the patches that it learned from."""
    steps: int
    """Optimiser steps."""
    patients: dict[str, tuple[str, ...]]
    """`source`, `pool`, … → the patients whose scans it learned from."""
    scans: int
    """Number of scans."""
    from_source: bool = False
    """Whether it went on from a source network."""
    started_anew: tuple[str, ...] = ()
    """Parameters that did not fit the source network and kept their random start."""


def write_image_model(folder: Path, model: ImageModel, record: ImageModelRecord) -> None:
    """Writes weights and record."""
    save_tensors(folder / MODEL, model.state_dict())
    write_record(folder / ABOUT, record)


def read_image_model_record(folder: Path) -> ImageModelRecord:
    """Reads the record.

    Raises:
        WorkspaceError: it is missing or damaged.
    """
    return read_record(folder / ABOUT, ImageModelRecord)


def read_image_model(folder: Path) -> tuple[ImageModel, ImageModelRecord]:
    """Reads a trained image model, ready to reconstruct and score.

    Raises:
        WorkspaceError: a file is missing or damaged, or the weights do not fit the record.
    """
    record = read_image_model_record(folder)
    model = build_image_model(record.network, record.objective, record.channels)
    try:
        model.load_state_dict(read_image_weights(folder))
    except RuntimeError as error:
        raise WorkspaceError(
            f"{folder / MODEL}: the weights do not fit the model that {ABOUT} describes ({error})",
            expected="the files of one training",
            fix=AGAIN,
        ) from error
    return model.requires_grad_(False).eval(), record


def read_image_weights(folder: Path) -> dict[str, Tensor]:
    """Reads the state of a trained image model.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    return load_tensors(folder / MODEL)
