"""A prediction on disk: averages over members and draws, before a reading is applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import WorkspaceError
from models.heads import Heads
from pipeline.prediction.dice_thresholds import mask_thresholds
from pipeline.prediction.post_processing import ComponentRule, mask_of
from pipeline.prediction.posterior_average import PosteriorAverage, entropy
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.temperature import as_stored, from_log_probability
from pipeline.storage.cached_case import CachedCase
from pipeline.storage.tensors import load_about, load_tensors, save_tensors

_CUBIC_MM_PER_ML = 1000.0
LOG_PROBABILITY, INFORMATION = "log_probability", "mutual_information"
"""Names of the tensors of a prediction."""
_VOLUMES, _HEADS = "volumes_ml", "heads"


@dataclass(frozen=True)
class CasePrediction:
    """The averages of a case over the draws.

    Attributes:
        average: moments of the probabilities.
        voxels: `[S, K]` int64, voxels of each foreground class in the most probable mask of every draw.
    """

    average: PosteriorAverage
    voxels: torch.Tensor


@dataclass(frozen=True)
class ReadPrediction:
    """A prediction with a reading applied.

    Attributes:
        probability: `[C, X, Y, Z]` float32 of the channels of `heads`, with the reading's temperature.
        thresholds: of the mask, of each class; `None` for the most probable class.
        voxel_correlation: ρ of the volume interval; `None` for the interval of the draws.
        rules: what is kept of the components of each class; everything without rules.
        voxel_volume: of the grid, in mm³.
        heads: what the channels stand for.
    """

    probability: torch.Tensor
    thresholds: tuple[float, ...] | None
    voxel_correlation: float | None
    rules: tuple[ComponentRule, ...] = ()
    voxel_volume: float = 1.0
    heads: Heads = Heads.EXCLUSIVE

    @property
    def foreground(self) -> torch.Tensor:
        """`[K, X, Y, Z]`, without the background."""
        return self.heads.foreground(self.probability)

    @cached_property
    def mask(self) -> NDArray[np.integer]:
        """`[X, Y, Z]` codes of `heads`, after post-processing."""
        return mask_of(self.foreground, self.thresholds, self.rules, self.voxel_volume, self.heads)

    @cached_property
    def most_probable(self) -> NDArray[np.integer]:
        """`[X, Y, Z]` codes without thresholds, after post-processing; the mask unless that has some."""
        if self.thresholds is None:
            return self.mask
        return mask_of(self.foreground, None, self.rules, self.voxel_volume, self.heads)

    @property
    def entropy(self) -> torch.Tensor:
        """`[X, Y, Z]` predictive entropy in nats."""
        return entropy(self.probability, self.heads)


def read_average(
    probability: torch.Tensor,
    reading: ReadingOptions,
    classes: Sequence[str],
    spacing: Sequence[float],
    heads: Heads = Heads.EXCLUSIVE,
) -> ReadPrediction:
    """Applies a reading to averaged probabilities that already have its temperature.

    Args:
        probability: `[C, X, Y, Z]` of the channels of `heads`.
        reading: how they are read.
        classes: names of the classes 1…K.
        spacing: mm between voxel centres.
        heads: what the channels stand for.
    """
    foreground = heads.foreground(probability).cpu().numpy()
    return ReadPrediction(
        probability,
        mask_thresholds(reading.mask, foreground, spacing, heads),
        reading.voxel_correlation,
        reading.rules(classes),
        math.prod(spacing),
        heads,
    )


@dataclass(frozen=True)
class StoredPrediction:
    """A stored prediction.

    Attributes:
        case: name of the case.
        image: digest of the preprocessed image that was predicted.
        classes: names of the classes 1…K.
        affine: `[4, 4]` of the preprocessed grid.
        draws: number of averaged passes.
        log_probability: `[C, X, Y, Z]` float16 of the channels of `heads`.
        mutual_information: `[X, Y, Z]` float16 in nats; `None` for a single draw.
        volumes_ml: `[S, K]` float64, volume of each class in the most probable mask of every draw; `None` for one.
        heads: what the channels stand for.
    """

    case: str
    image: str
    classes: tuple[str, ...]
    affine: NDArray[np.float64]
    draws: int
    log_probability: torch.Tensor
    mutual_information: torch.Tensor | None
    volumes_ml: torch.Tensor | None
    heads: Heads = Heads.EXCLUSIVE

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm between voxel centres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @classmethod
    def of(cls, prediction: CasePrediction, case: CachedCase, image: str) -> StoredPrediction:
        """Converts a prediction of a case to what is stored; `image` is the digest of the case's image."""
        average = prediction.average
        several = average.count > 1
        voxel = abs(float(np.linalg.det(case.affine[:3, :3]))) / _CUBIC_MM_PER_ML
        return cls(
            case.name,
            image,
            tuple(case.classes),
            case.affine,
            average.count,
            as_stored(average.probability).cpu(),
            average.mutual_information.half().cpu() if several else None,
            prediction.voxels.double() * voxel if several else None,
            average.heads,
        )

    def write(self, path: Path) -> None:
        """Writes the prediction, atomically."""
        tensors = {
            LOG_PROBABILITY: self.log_probability,
            INFORMATION: self.mutual_information,
            _VOLUMES: self.volumes_ml,
        }
        about = {
            "case": self.case,
            "image": self.image,
            "classes": list(self.classes),
            "affine": self.affine.tolist(),
            "draws": self.draws,
            # Exclusive classes are the rule, and were the only kind once.
            **({} if self.heads is Heads.EXCLUSIVE else {_HEADS: self.heads.value}),
        }
        save_tensors(path, {name: tensor for name, tensor in tensors.items() if tensor is not None}, about)

    def read(self, reading: ReadingOptions) -> ReadPrediction:
        """Applies a reading to the averaged probabilities."""
        probability = from_log_probability(self.log_probability, reading.logit_temperature, self.heads)
        return read_average(probability, reading, self.classes, self.spacing, self.heads)


def prediction_name(case: str) -> str:
    """File name of the prediction of a case."""
    return f"{case}.safetensors"


def load_prediction(path: Path) -> StoredPrediction:
    """Reads a prediction.

    Raises:
        WorkspaceError: the file is missing, damaged or not a prediction.
    """
    tensors, about = load_tensors(path), load_about(path)
    try:
        return StoredPrediction(
            str(about["case"]),
            str(about["image"]),
            tuple(str(name) for name in about["classes"]),
            np.asarray(about["affine"], dtype=np.float64),
            int(about["draws"]),
            tensors[LOG_PROBABILITY],
            tensors.get(INFORMATION),
            tensors.get(_VOLUMES),
            Heads(about.get(_HEADS, Heads.EXCLUSIVE)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"{path}: is not a stored prediction (it lacks {error})",
            expected="what `graft infer` wrote",
            fix="delete its folder and run `graft infer` again",
        ) from error


def predicted_image(path: Path) -> str | None:
    """Digest of the predicted image; `None` if the stored prediction cannot be read."""
    try:
        image = load_about(path).get("image")
    except WorkspaceError:
        return None
    return None if image is None else str(image)
