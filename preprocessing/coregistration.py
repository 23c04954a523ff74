"""Rigid registration of every channel to the first: channels of one visit share the head, not the head's place."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.volume import Volume
from preprocessing.content import foreground_mask
from preprocessing.grid import background_value, isotropic_grid, resample
from preprocessing.registration import Degrees, MutualInformation, Optimiser, best_starts, rotation_angle, shift
from preprocessing.step import Interpolation, Record, Step
from preprocessing.subject import Subject


class CoregistrationOptions(Options):
    """How the channels are registered."""

    spacings: tuple[float, ...] = Field(
        default=(6.0, 2.5), min_length=1, description="Voxel size in mm of each level, coarse to fine."
    )
    iterations: int = Field(default=60, ge=1, description="Largest number of optimiser steps at each level.")
    bins: int = Field(default=48, ge=8, description="Histogram bins of the mutual information.")
    largest_shift: float = Field(default=40.0, gt=0, description="A larger shift of the head, in mm, is suspect.")
    largest_angle: float = Field(default=30.0, gt=0, description="A larger turn, in degrees, is suspect.")
    skip_same_grid: bool = Field(
        default=False, description="Take channels that lie on the first one's grid as registered already."
    )


class Coregistration(Step):
    """Moves every further channel rigidly onto the first.

    A channel is moved by its affine alone; its voxels are interpolated once, by the resampling step. Only where that
    step is off, `resample_to_reference`, are the channels brought to the first one's grid here.
    """

    name: ClassVar[str] = "coregistration"

    def __init__(self, options: CoregistrationOptions, resample_to_reference: bool = False) -> None:
        self.options = options
        self.resample_to_reference = resample_to_reference

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Registers the channels; label and mask follow the channel that they lie on."""
        reference = subject.reference
        channels: dict[str, Volume] = {subject.reference_name: reference}
        facts: dict[str, Any] = {}
        suspect: list[str] = []
        label, mask = subject.label, subject.mask
        for name, volume in list(subject.channels.items())[1:]:
            if self.options.skip_same_grid and volume.same_grid(reference):
                channels[name], facts[name] = volume, {"moved": False}
                continue
            matrix, facts[name] = self._register(reference, volume)
            suspect += [f"channel {name} {reason}" for reason in self._implausible(facts[name])]
            channels[name] = moved(volume, matrix)
            label = _follow(label, volume, reference, matrix)
            mask = _follow(mask, volume, reference, matrix)
        result = Subject(subject.name, channels, label, mask)
        if self.resample_to_reference:
            result = onto_reference(result)
        return result, self.record(suspect, channels=facts)

    def _register(self, reference: Volume, volume: Volume) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Returns the matrix from the reference's world to the channel's, and the facts."""
        spacings = self.options.spacings
        matrix = np.eye(4)
        first = metric = 0.0
        for level, spacing in enumerate(spacings):
            fixed, moving = coarse(reference, spacing), coarse(volume, spacing)
            information = MutualInformation(fixed, moving)
            if level == 0:
                starts = [np.eye(4), shift(_centre(moving) - _centre(fixed))]
                first = information.evaluate(starts[0], self.options.bins)
                matrix = best_starts(information, starts, 1, self.options.bins)[0]
            step = Optimiser(
                Degrees.RIGID, self.options.iterations, step=spacing / 4, smallest_step=0.01, bins=self.options.bins
            )
            found = information.optimise(matrix, step)
            matrix, metric = found.matrix, found.metric
        centre = _centre(reference)
        moved_centre = matrix[:3, :3] @ centre + matrix[:3, 3]
        facts = {
            "moved": True,
            "matrix": matrix.tolist(),
            "metric": metric,
            "metric_before": first,
            "shift_mm": float(np.linalg.norm(moved_centre - centre)),
            "angle_degrees": rotation_angle(matrix),
        }
        return matrix, facts

    def _implausible(self, facts: dict[str, Any]) -> list[str]:
        reasons = []
        if facts["shift_mm"] > self.options.largest_shift:
            reasons.append(f"was shifted by {facts['shift_mm']:.0f} mm to meet the first")
        if facts["angle_degrees"] > self.options.largest_angle:
            reasons.append(f"was turned by {facts['angle_degrees']:.0f} degrees to meet the first")
        return reasons


def coarse(volume: Volume, spacing: float) -> Volume:
    """Returns the volume on a world-aligned isotropic grid of a spacing in mm."""
    shape, affine = isotropic_grid(volume, spacing)
    return resample(volume, shape, affine, Interpolation.LINEAR, fill=background_value(volume))


def moved(volume: Volume, matrix: NDArray[np.float64]) -> Volume:
    """Returns the volume in the fixed world of a registration, moved by its affine alone."""
    return Volume(volume.array, np.linalg.inv(matrix) @ volume.affine)


def onto_reference(subject: Subject) -> Subject:
    """Resamples whatever does not lie on the reference's grid onto it."""
    grid = subject.reference

    def carry(volume: Volume | None, interpolation: Interpolation) -> Volume | None:
        if volume is None or volume.same_grid(grid):
            return volume
        fill = 0.0 if interpolation is Interpolation.NEAREST else background_value(volume)
        return resample(volume, grid.shape, grid.affine, interpolation, fill)

    channels = {name: carry(v, Interpolation.LINEAR) or v for name, v in subject.channels.items()}
    nearest = Interpolation.NEAREST
    return Subject(subject.name, channels, carry(subject.label, nearest), carry(subject.mask, nearest))


def _follow(volume: Volume | None, channel: Volume, reference: Volume, matrix: NDArray[np.float64]) -> Volume | None:
    if volume is None or volume.same_grid(reference) or not volume.same_grid(channel):
        return volume
    return moved(volume, matrix)


def _centre(volume: Volume) -> NDArray[np.float64]:
    """Returns the world coordinates `[3]` in mm of the middle of the head or body."""
    where = np.argwhere(foreground_mask(volume))
    index = where.mean(axis=0) if len(where) else (np.array(volume.shape) - 1) / 2
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]
