"""Rigid registration of every channel to the first: channels of one visit show one head in different poses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.volume import Volume
from preprocessing.content import foreground_mask
from preprocessing.grid import background_value, coarse, resample
from preprocessing.registration import Degrees, MutualInformation, Optimiser, best_starts, rotation_angle, shift
from preprocessing.step import Interpolation, Record, Step
from preprocessing.subject import Subject

_ITERATIONS = 60
"""Largest number of optimiser steps at each level: the metric has settled before."""
_BINS = 48
"""Histogram bins of the mutual information."""
_LARGEST_SHIFT_MM, _LARGEST_DEGREES = 40.0, 30.0
"""Between two series of a visit a head moves less; more is suspect."""


class CoregistrationOptions(Options):
    """How the channels are registered."""

    spacings: tuple[float, ...] = Field(
        default=(6.0, 2.5), min_length=1, description="Voxel size in mm of each level, coarse to fine."
    )
    skip_same_grid: bool = Field(
        default=False, description="Treat channels on the first one's grid as registered already."
    )


class Coregistration(Step[CoregistrationOptions]):
    """Moves every further channel rigidly onto the first.

    A channel is moved by its affine only; its voxels are interpolated once, by the resampling step. If that step is
    off (`resample_to_reference`), the channels are resampled to the first one's grid here.
    """

    name: ClassVar[str] = "coregistration"

    def __init__(self, options: CoregistrationOptions, resample_to_reference: bool = False) -> None:
        super().__init__(options)
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
            suspect += [f"channel {name} {reason}" for reason in _implausible(facts[name])]
            channels[name] = moved(volume, matrix)
            label = _follow(label, volume, reference, matrix)
            mask = _follow(mask, volume, reference, matrix)
        result = replace(subject, channels=channels, label=label, mask=mask)
        if self.resample_to_reference:
            result = onto_reference(result)
        return result, self.record(suspect, channels=facts)

    def _register(self, reference: Volume, volume: Volume) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Returns the matrix from the reference's world to the channel's, and the facts."""
        matrix = np.eye(4)
        before = metric = 0.0
        for level, spacing in enumerate(self.options.spacings):
            fixed, moving = coarse(reference, spacing), coarse(volume, spacing)
            information = MutualInformation(fixed, moving, bins=_BINS)
            if level == 0:
                starts = [np.eye(4), shift(_centre(moving) - _centre(fixed))]
                before = information.evaluate(starts[0])
                (matrix,) = best_starts(information, starts)
            optimiser = Optimiser(Degrees.RIGID, _ITERATIONS, step=spacing / 4, smallest_step=0.01)
            found = information.optimise(matrix, optimiser)
            matrix, metric = found.matrix, found.metric
        centre = _centre(reference)
        moved_centre = matrix[:3, :3] @ centre + matrix[:3, 3]
        facts = {
            "moved": True,
            "matrix": matrix.tolist(),
            "metric": metric,
            "metric_before": before,
            "shift_mm": float(np.linalg.norm(moved_centre - centre)),
            "angle_degrees": rotation_angle(matrix),
        }
        return matrix, facts


def _implausible(facts: dict[str, Any]) -> list[str]:
    reasons = []
    if facts["shift_mm"] > _LARGEST_SHIFT_MM:
        reasons.append(f"was shifted by {facts['shift_mm']:.0f} mm to match the first")
    if facts["angle_degrees"] > _LARGEST_DEGREES:
        reasons.append(f"was turned by {facts['angle_degrees']:.0f} degrees to match the first")
    return reasons


def moved(volume: Volume, matrix: NDArray[np.float64]) -> Volume:
    """Returns the volume in the fixed world of a registration, moved by its affine only."""
    return Volume(volume.array, np.linalg.inv(matrix) @ volume.affine)


def onto_reference(subject: Subject) -> Subject:
    """Resamples whatever does not lie on the reference's grid onto it."""
    grid = subject.reference

    def image(volume: Volume) -> Volume:
        if volume.same_grid(grid):
            return volume
        return resample(volume, grid.shape, grid.affine, Interpolation.LINEAR, background_value(volume))

    def drawn(volume: Volume) -> Volume:
        same = volume.same_grid(grid)
        return volume if same else resample(volume, grid.shape, grid.affine, Interpolation.NEAREST)

    return subject.changed(image, drawn)


def _follow(volume: Volume | None, channel: Volume, reference: Volume, matrix: NDArray[np.float64]) -> Volume | None:
    if volume is None or volume.same_grid(reference) or not volume.same_grid(channel):
        return volume
    return moved(volume, matrix)


def _centre(volume: Volume) -> NDArray[np.float64]:
    """Returns the world coordinates `[3]` in mm of the middle of the head or body."""
    where = np.argwhere(foreground_mask(volume))
    index = where.mean(axis=0) if len(where) else (np.array(volume.shape) - 1) / 2
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]
