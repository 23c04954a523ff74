"""`model.json`: everything that a prediction needs besides the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from data.label_map import LARGEST_LABEL
from data.modality import Modality
from data.name_fields import Apart, LabelName, Name
from data.options import Options
from models.heads import Heads
from models.networks.factory import NetworkOptions
from pipeline.arms.choices import ArmOptions
from pipeline.arms.target_network import TargetNetwork
from pipeline.deployment.fingerprint import TrainingFingerprint
from pipeline.evaluation.dice_fit import DiceFit
from pipeline.prediction.sliding_window import SlidingWindowOptions
from preprocessing.chain import PreprocessingOptions

Side = Annotated[int, Field(ge=1, le=2048)]
"""Voxels of a sliding window along an axis, at most the size of a scan."""

FORMAT = 2
"""Version of the model folder, raised when older folders could be read wrongly or not at all."""


class ModelOrigin(Options):
    """Facts of a model that come from its study."""

    study: Name
    """Name of the study."""
    modality: Modality
    """What kind of scan the target dataset holds."""
    channels: Annotated[tuple[Name, ...], Apart] = Field(min_length=1)
    """Channel names in the order of the network's input."""
    preprocessing: PreprocessingOptions
    """The chain of the target dataset."""
    network: NetworkOptions
    """The network."""
    patch: tuple[Side, Side, Side]
    """Size of the sliding window in voxels."""
    window: SlidingWindowOptions
    """How the sliding window moves."""
    flip_axes: tuple[int, ...]
    """Axes of the preprocessed grid that the training mirrored: those that `--tta` mirrors."""


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
    """Name of the objective that the training minimised."""
    training_patients: int = Field(ge=0)
    """Number of annotated target patients that it learned from."""
    repeat: int = Field(ge=0)
    """Number of the repeat."""
    classes: Annotated[dict[LabelName, Annotated[int, Field(ge=1, le=LARGEST_LABEL)]], Apart] = Field(min_length=1)
    """Class name → its value in the masks; class number k of the network (from 1) is the k-th name. Values of
    overlapping structures are powers of two, and a voxel has the sum of those that hold it."""
    heads: Heads = Heads.EXCLUSIVE
    """Whether the classes exclude each other or overlap."""
    draws: int = Field(ge=1)
    """Draws from the posterior in the study's predictions: the default of `--samples`."""
    members: tuple[str, ...] = Field(min_length=1)
    """File of each member's weights and posterior."""
    seeds: tuple[int, ...]
    """Seed of each member's draws, so that a prediction repeats the study's."""
    kl_moving: int = Field(default=0, ge=0)
    """Members, or components of mixtures, whose KL was still moving when their training ended."""
    fingerprint: TrainingFingerprint | None = None
    """Ranges of the training cases; none of a model that learned from no case of the target."""
    dice_fits: dict[str, DiceFit] = Field(default_factory=dict)
    """Class → relation of expected to real Dice on the study's test cases, where there were enough."""

    @model_serializer(mode="wrap")
    def _without_the_rule(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is the rule is not written, and earlier versions knew nothing else."""
        content: dict[str, Any] = dump(self)
        if self.heads is Heads.EXCLUSIVE:
            content.pop("heads", None)
        if not self.kl_moving:
            content.pop("kl_moving", None)
        if self.fingerprint is None:
            content.pop("fingerprint", None)
        return content

    @model_validator(mode="after")
    def _coherent(self) -> ModelDescription:
        if self.training_patients and self.fingerprint is None:
            raise ValueError(f"it learned from {self.training_patients} target patients, and `fingerprint` is missing")
        if len(self.seeds) != len(self.members):
            raise ValueError(f"there are {len(self.members)} `members` and {len(self.seeds)} `seeds`")
        if len(set(self.classes.values())) != len(self.classes):
            raise ValueError("two `classes` have the same value")
        if unknown := self.arm.unknown_classes(self.classes):
            raise ValueError(f"`arm.post_processing` names {unknown[0]!r}, which is not one of the `classes`")
        if self.heads is Heads.OVERLAPPING and any(value.bit_count() != 1 for value in self.classes.values()):
            raise ValueError("`classes` overlap, so their values have to be powers of two")
        if self.fingerprint is not None and set(self.fingerprint.after) != set(self.channels):
            raise ValueError(
                f"`channels` are {', '.join(self.channels)}, but the fingerprint has "
                f"{', '.join(self.fingerprint.after) or 'none'}"
            )
        return self

    @property
    def target_network(self) -> TargetNetwork:
        """The network for its channels and classes."""
        return TargetNetwork(self.network, len(self.channels), self.heads.outputs(len(self.classes)), self.heads)


def label_values(classes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Returns the value of each class in masks.

    It is the class's own value if every class has exactly one below 256, otherwise the number of the class. Overlapping
    structures have powers of two, so that the sum of the values of all that hold a voxel says which these are.
    """
    heads = Heads.of(classes)
    own = [values[0] for values in classes.values() if len(values) == 1]
    if len(own) == len(classes) == len(set(own)) and max(own) < 256 and heads is Heads.EXCLUSIVE:
        return {name: int(values[0]) for name, values in classes.items()}
    return {name: heads.code(number) for number, name in enumerate(classes, start=1)}
