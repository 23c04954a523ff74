"""What `model.json` says: everything that a prediction needs beside the weights."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, Field, model_validator

from data.label_map import LARGEST_LABEL
from data.modality import Modality
from data.name_fields import Apart, LabelName, Name
from data.options import Options
from models.networks.factory import NetworkOptions
from pipeline.arms.choices import ArmOptions
from pipeline.deployment.fingerprint import TrainingFingerprint
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.prediction.sliding_window import SlidingWindowOptions
from preprocessing.chain import PreprocessingOptions

Side = Annotated[int, Field(ge=1, le=2048)]
"""Voxels of a sliding window along an axis: none is larger than what scanners make."""

FORMAT = 1
"""Version of the model folder. To be raised when a folder of before could be read wrongly or not at all."""


class ModelOrigin(Options):
    """Where a model comes from: what the arm itself does not know of its study."""

    study: Name
    """Name of the study."""
    modality: Modality
    """What kind of scan the target dataset holds."""
    channels: Annotated[tuple[Name, ...], Apart] = Field(min_length=1)
    """Channel names in the order of the network's input."""
    preprocessing: PreprocessingOptions
    """The chain of the target dataset."""


class ModelDescription(ModelOrigin):
    """The content of `model.json`."""

    format: int = Field(default=FORMAT, ge=1)
    """Version of the format."""
    graft_version: str
    """Version of the program that wrote it."""
    arm_name: Name
    """Name of the arm in its study."""
    arm: ArmOptions
    """Its choices."""
    objective: str
    """What the training minimised, in words."""
    training_patients: int = Field(ge=1)
    """Number of target patients that it learned from."""
    repeat: int = Field(ge=0)
    """Which repeat of the study."""
    network: NetworkOptions
    """The network."""
    classes: Annotated[dict[LabelName, Annotated[int, Field(ge=1, le=LARGEST_LABEL)]], Apart] = Field(min_length=1)
    """Class name → its value in the masks; class number k of the network (from 1) is the k-th name."""
    patch: tuple[Side, Side, Side]
    """Size of the sliding window in voxels."""
    window: SlidingWindowOptions
    """How the sliding window moves."""
    flip_axes: tuple[int, ...]
    """Axes of the preprocessed grid that the training mirrored: those that `--tta` mirrors."""
    draws: int = Field(ge=1)
    """Draws from the posterior that the study predicted with: the default of `--samples`."""
    members: tuple[str, ...] = Field(min_length=1)
    """File of each member's weights and posterior."""
    seeds: tuple[int, ...]
    """Seed of each member's draws, so that a prediction repeats the study's."""
    fingerprint: TrainingFingerprint
    """What the training cases looked like."""
    dice_fits: dict[str, DiceFit] = Field(
        default_factory=dict, validation_alias=AliasChoices("dice_fits", "calibration")
    )
    """Class → how the expected Dice relates to the real one on the study's test cases, where there were enough."""

    @model_validator(mode="after")
    def _one_seed_for_each_member(self) -> ModelDescription:
        if len(self.seeds) != len(self.members):
            raise ValueError(f"there are {len(self.members)} `members` and {len(self.seeds)} `seeds`")
        return self

    @model_validator(mode="after")
    def _one_value_for_each_class(self) -> ModelDescription:
        if len(set(self.classes.values())) != len(self.classes):
            raise ValueError("two `classes` have one value")
        return self

    @model_validator(mode="after")
    def _fingerprint_of_its_channels(self) -> ModelDescription:
        if set(self.fingerprint.after) != set(self.channels):
            raise ValueError(
                f"`channels` are {', '.join(self.channels)}, and the fingerprint is one of "
                f"{', '.join(self.fingerprint.after) or 'none'}"
            )
        return self


def label_values(classes: dict[str, list[int]]) -> dict[str, int]:
    """Returns the value of each class in masks.

    It is the class's own value where every class has one of its own below 256, else the number of the class.
    """
    own = [values[0] for values in classes.values() if len(values) == 1]
    if len(own) == len(classes) == len(set(own)) and max(own) < 256:
        return {name: int(values[0]) for name, values in classes.items()}
    return {name: number for number, name in enumerate(classes, start=1)}
