"""Trained models: `load_model(path).predict(image)`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ModelError
from data.volume import Volume
from graft.images import Images, read_scan
from models.heads import Heads
from models.networks.imported_network import network_code_allowed
from pipeline.config.reading import read_command_options
from pipeline.deployment import model_folder
from pipeline.deployment.case_prediction import PredictedScan, predict_case
from pipeline.deployment.network_code import require_network_code
from pipeline.deployment.predict_options import PredictOptions
from pipeline.execution.device import chosen_device


@dataclass(frozen=True)
class Structure:
    """The numbers of one predicted structure.

    Attributes:
        label: its value in the mask.
        voxels: size of its mask.
        volume_ml: volume of its mask.
        volume_interval_ml: 90 % interval of the volume; None where the model cannot give one (fewer than 19 draws).
        dice: its expected Dice; None where nothing was found.
        dice_error: standard deviation of the real Dice about it; None where it was never checked on test cases.
        dice_basis: what the expected Dice is based on, in words.
    """

    label: int
    voxels: int
    volume_ml: float
    volume_interval_ml: tuple[float, float] | None
    dice: float | None
    dice_error: float | None
    dice_basis: str

    @classmethod
    def _of(cls, facts: Mapping[str, Any]) -> Structure:
        interval, estimate = facts["volume_90_percent_ml"], facts["dice"] or {}
        return cls(
            label=facts["label"],
            voxels=facts["voxels"],
            volume_ml=facts["volume_ml"],
            volume_interval_ml=None if interval is None else (interval[0], interval[1]),
            dice=estimate.get("dice"),
            dice_error=estimate.get("error"),
            dice_basis=estimate.get("basis", ""),
        )


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for a scan; every volume lies on the grid of the scan's first channel.

    Attributes:
        name: of the scan.
        mask: label map; `structures` says which value is which. Where structures overlap, a voxel has the sum of the
            values of those that hold it (`masks` has each alone).
        probabilities: class → mean probability, float32; empty where they were not requested.
        uncertainty: `entropy` (nats) and, with several draws, `mutual-information` (nats) and `standard-deviation`.
        structures: class → its numbers.
        warnings: why the scan or its result should be looked at before it is used; empty where nothing is suspect.
        draws: weight draws that were averaged.
        facts: everything that `graft predict` writes into the JSON file of a case.
        heads: `exclusive` or `overlapping` structures.
    """

    name: str
    mask: Volume
    probabilities: dict[str, Volume]
    uncertainty: dict[str, Volume]
    structures: dict[str, Structure]
    warnings: tuple[str, ...]
    draws: int
    facts: dict[str, Any]
    heads: Heads

    @property
    def masks(self) -> dict[str, Volume]:
        """Class → its mask alone, boolean."""
        holds = self.heads.holds
        return {name: self.mask.with_array(holds(self.mask.array, own.label)) for name, own in self.structures.items()}

    @property
    def suspect(self) -> bool:
        """Whether there are warnings; the expected Dice does not hold for a suspect scan."""
        return bool(self.warnings)

    @classmethod
    def _of(cls, predicted: PredictedScan, probabilities: dict[str, Volume]) -> Prediction:
        return cls(
            name=predicted.scan.case.name,
            mask=predicted.mask,
            probabilities=probabilities,
            uncertainty=dict(predicted.uncertainty()),
            structures={name: Structure._of(own) for name, own in predicted.structures.items()},
            warnings=tuple(predicted.reasons),
            draws=predicted.draws,
            facts=predicted.numbers(),
            heads=predicted.model.description.heads,
        )


class Model:
    """A trained model; `load_model` reads it.

    Args:
        found: the model folder that was read.
        device: the device of its networks.
    """

    def __init__(self, found: model_folder.Model, device: str) -> None:
        self._found = found
        self._device = device

    def __repr__(self) -> str:
        return f"Model {self.arm} of the study {self.study}: {', '.join(self.channels)} → {', '.join(self.classes)}"

    @property
    def study(self) -> str:
        """Name of the study that trained it."""
        return self._found.description.study

    @property
    def arm(self) -> str:
        """Name of its arm in the study."""
        return self._found.description.arm_name

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that a scan needs."""
        return self._found.description.channels

    @property
    def classes(self) -> dict[str, int]:
        """Class → its value in masks; those of overlapping structures add up."""
        return dict(self._found.description.classes)

    @property
    def training_patients(self) -> int:
        """Number of target patients from whom it learned."""
        return self._found.description.training_patients

    @property
    def digest(self) -> str:
        """SHA-256 of the model folder: the same wherever it is copied."""
        return self._found.digest

    def predict(
        self,
        image: Images,
        *,
        name: str | None = None,
        samples: int | None = None,
        tta: bool = False,
        probabilities: bool = True,
        limits: Mapping[str, Any] | None = None,
    ) -> Prediction:
        """Segments a scan as `graft predict` does, with the same result.

        Args:
            image: a path, an image of nibabel or SimpleITK, a `Volume`, or a pair of array `[X, Y, Z]` and affine
                `[4, 4]`; of several channels a mapping from channel to any of these, or one image with the channels
                along a fourth axis; or a case of a study.
            name: of the scan; by default that of the file.
            samples: draws from each member's posterior; by default as many as the study made.
            tta: whether to average over the mirrorings that the training made.
            probabilities: whether to keep the probability of each class, a volume each.
            limits: limits beyond which a scan counts as unlike the training cases (`limits` of `graft predict`).

        Raises:
            GraftError: the scan cannot be read, lacks a channel, is of another modality, or a step of preprocessing
                cannot be run.
        """
        given = {"samples": samples, "tta": tta, "limits": dict(limits or {})}
        options = read_command_options("predict", PredictOptions, (), given)
        kept: dict[str, Volume] = {}

        def keep(label: str, probability: Volume) -> None:
            if probabilities:
                kept[label] = probability

        scan = read_scan(image, self.channels, name)
        return Prediction._of(predict_case(self._found, scan, options, self._device, keep=keep), kept)


def load_model(path: str | os.PathLike[str], *, device: str = "auto", allow_code: bool = False) -> Model:
    """Reads a trained model; every file is checked, and nothing in it is executed.

    Args:
        path: a model folder, or the folder of an arm that holds one, as `workspaces/STUDY/infer/ARM/n05/repeat-0`.
        device: `auto`, `cpu` or `cuda`.
        allow_code: whether a network that is code outside Graft may be imported and run; allow it only for models that
            you trust.

    Raises:
        ModelError: there is no model, or a file of it is missing or damaged.
        GraftError: its network is code outside Graft that may not be run, or is not there.
        ConfigError: `cuda` is requested but not available.
    """
    folder = Path(path)
    if (folder / "configs" / "metadata.json").is_file():
        raise ModelError(
            f"{folder}: is a MONAI bundle, which holds mean networks and no posterior",
            expected="a model folder",
            fix="run the bundle with MONAI, or name the model folder that it was exported from",
        )
    where = chosen_device(device)
    with network_code_allowed(allow_code):
        require_network_code(model_folder.read_description(folder)[0].network)
        return Model(model_folder.read_model(folder, where), where)
