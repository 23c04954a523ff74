"""The model folder of a trained arm: what the unit of a study knows, put into a description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from models.bayesian_network import BayesianNetwork
from models.networks.factory import NetworkOptions
from pipeline.arms.choices import ArmOptions
from pipeline.deployment.dice_calibration import DiceCalibration
from pipeline.deployment.fingerprint import TrainingFingerprint, cached_facts
from pipeline.deployment.model_description import ModelDescription, ModelOrigin, label_values
from pipeline.deployment.model_folder import member_name, write_model
from pipeline.evaluation.metrics import count_voxels, dice
from pipeline.inference.boundary_band import BAND, boundary_band
from pipeline.inference.dice_thresholds import MaskRule, mask_thresholds
from pipeline.inference.expected_dice import expected_dice
from pipeline.inference.most_probable import predicted_classes
from pipeline.inference.posterior_average import PosteriorAverage
from pipeline.inference.sliding_window import SlidingWindowOptions
from pipeline.storage.provenance import graft_version
from pipeline.training.cached_case import CachedCase


@dataclass(frozen=True)
class TrainedArm:
    """What a unit of the study knows of the arm that it trained.

    Attributes:
        name: of the arm.
        options: its choices.
        objective: what it minimised, in words.
        repeat: which repeat.
        network: the network.
        patch: size of the sliding window.
        window: how it moves.
        flip_axes: axes that the augmentation mirrored.
        patients: patient → training cases.
        seeds: seed of each member's draws.
    """

    name: str
    options: ArmOptions
    objective: str
    repeat: int
    network: NetworkOptions
    patch: tuple[int, int, int]
    window: SlidingWindowOptions
    flip_axes: tuple[int, ...]
    patients: Mapping[str, Sequence[CachedCase]]
    seeds: Sequence[int]


@dataclass
class DicePairs:
    """Expected and real Dice of each class on the test cases of a study."""

    expected: dict[str, list[float]] = field(default_factory=dict)
    real: dict[str, list[float]] = field(default_factory=dict)

    def add(self, average: PosteriorAverage, case: CachedCase, rule: MaskRule) -> None:
        """Adds a test case with its prediction; structures that prediction and reference both lack say nothing."""
        label, spacing, foreground = case.label(), case.spacing.tolist(), average.probability[1:].cpu()
        predicted = predicted_classes(foreground, mask_thresholds(rule, foreground.numpy(), spacing)).numpy()
        for number, name in enumerate(case.classes, start=1):
            mask, reference = predicted == number, label.numpy() == number
            if not mask.any() and not reference.any():
                continue
            near = boundary_band(mask, spacing, BAND)
            self.expected.setdefault(name, []).append(expected_dice(foreground[number - 1].numpy(), mask, near))
            self.real.setdefault(name, []).append(dice(count_voxels(mask, reference)))

    def calibrations(self) -> dict[str, DiceCalibration]:
        """Class → calibration, for classes with enough cases."""
        fits = {name: DiceCalibration.fit(self.expected[name], self.real[name]) for name in self.expected}
        return {name: fit for name, fit in fits.items() if fit is not None}


def write_arm_model(
    folder: Path,
    arm: TrainedArm,
    origin: ModelOrigin,
    members: Sequence[BayesianNetwork],
    pairs: DicePairs,
) -> None:
    """Writes the model folder of a trained arm.

    Args:
        folder: the model's folder.
        arm: what was trained, and how.
        origin: what the study knows of it.
        members: the trained networks.
        pairs: expected and real Dice on the test cases.
    """
    cases = [case for own in arm.patients.values() for case in own]
    classes = {name: list(values) for name, values in cases[0].classes.items()}
    description = ModelDescription(
        **origin.model_dump(),
        graft_version=graft_version(),
        arm_name=arm.name,
        arm=arm.options,
        objective=arm.objective,
        training_patients=len(arm.patients),
        repeat=arm.repeat,
        network=arm.network,
        classes=label_values(classes),
        patch=arm.patch,
        window=arm.window,
        flip_axes=arm.flip_axes,
        draws=arm.options.draws,
        members=tuple(member_name(number) for number in range(len(members))),
        seeds=tuple(arm.seeds),
        fingerprint=TrainingFingerprint.of([cached_facts(case, origin.channels) for case in cases]),
        calibration=pairs.calibrations(),
    )
    states: list[Mapping[str, torch.Tensor]] = [member.state_dict() for member in members]
    write_model(folder, description, states)
