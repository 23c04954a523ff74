"""Alignment to the ICBM-152 template, so that like anatomy has like coordinates in all cases."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.volume import Volume
from preprocessing.content import content_mask, overlap
from preprocessing.coregistration import moved as in_fixed_world
from preprocessing.grid import background_value, isotropic_grid, resample
from preprocessing.registration import (
    Degrees,
    MutualInformation,
    Optimiser,
    Registration,
    best_starts,
    centre_and_size,
    rotation_about,
    rotation_angle,
    scaling,
    shift,
    stretches,
)
from preprocessing.step import Interpolation, Record, Step, grid_record, recorded_grid, require_grid
from preprocessing.subject import Subject
from preprocessing.template import load_template
from preprocessing.tissue_contrast import tissue_contrast


class AlignmentKind(StrEnum):
    """What the alignment may do to the head."""

    RIGID = "rigid"
    """Turn and shift; sizes and volumes stay true."""
    AFFINE = "affine"
    """Any linear map; heads of all sizes come to the template's."""
    NONE = "none"
    """Stay in the scanner's space."""


class AlignmentOptions(Options):
    """How the brain is registered to the template's brain."""

    kind: AlignmentKind = Field(default=AlignmentKind.AFFINE, description="What the alignment may do.")
    spacings: tuple[float, ...] = Field(
        default=(6.0, 3.0), min_length=1, description="Voxel size in mm of each level, coarse to fine."
    )
    pitches: tuple[float, ...] = Field(
        default=(-20.0, 0.0, 20.0), min_length=1, description="Turns about the left-right axis tried first, in degrees."
    )
    iterations: int = Field(default=60, ge=1, description="Largest number of optimiser steps at each level.")
    bins: int = Field(default=32, ge=8, description="Histogram bins of the mutual information.")
    rim: float = Field(default=6.0, ge=0, description="Width in mm of the rim around the template's brain that counts.")
    least_overlap: float = Field(
        default=0.88, ge=0, le=1, description="Suspect below this Dice of brain mask and template mask."
    )
    largest_angle: float = Field(default=40.0, gt=0, description="Suspect above this turn, in degrees.")
    stretch: tuple[float, float] = Field(
        default=(0.75, 1.35), description="Suspect where the map stretches along any axis by less or more than this."
    )


class Alignment(Step):
    """Moves all volumes into the template's world.

    Only affines change; the voxels are interpolated once, by the resampling step that follows.
    """

    name: ClassVar[str] = "alignment"

    def __init__(self, options: AlignmentOptions) -> None:
        self.options = options

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Registers the brain (mask, or content of the first channel) to the template's brain."""
        before = subject.reference
        if self.options.kind is AlignmentKind.NONE:
            grid = grid_record(before)
            return subject, self.record(kind="none", matrix=np.eye(4).tolist(), before=grid, grid=grid)
        mask = content_mask(before) if subject.mask is None else subject.mask.array > 0
        if not mask.any():
            mask = content_mask(before)
        found, dice = register_brain(before, mask, self.options)
        moved = Subject(
            subject.name,
            {name: in_fixed_world(volume, found.matrix) for name, volume in subject.channels.items()},
            None if subject.label is None else in_fixed_world(subject.label, found.matrix),
            None if subject.mask is None else in_fixed_world(subject.mask, found.matrix),
        )
        facts = {
            "kind": self.options.kind.value,
            "matrix": found.matrix.tolist(),
            "metric": found.metric,
            "overlap": dice,
            "angle_degrees": rotation_angle(found.matrix),
            "stretches": stretches(found.matrix).tolist(),
        }
        brain = Volume(mask.astype(np.uint8), moved.reference.affine)
        contrasts = {name: tissue_contrast(volume, brain) for name, volume in moved.channels.items()}
        facts["tissues"] = {name: contrast for name, contrast in contrasts.items() if contrast is not None}
        geometry = {"before": grid_record(before), "grid": grid_record(moved.reference)}
        return moved, self.record(self._implausible(facts), **facts, **geometry)

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Moves the volume back by its affine."""
        volume = require_grid(volume, record["grid"], self.name)
        _, affine = recorded_grid(record["before"])
        return Volume(volume.array, affine)

    def _implausible(self, facts: dict[str, Any]) -> list[str]:
        reasons = []
        if self.options.kind is AlignmentKind.AFFINE and facts["overlap"] < self.options.least_overlap:
            reasons.append(f"brain and template overlap badly after alignment (Dice {facts['overlap']:.2f})")
        if facts["angle_degrees"] > self.options.largest_angle:
            reasons.append(f"the head was turned by {facts['angle_degrees']:.0f} degrees")
        low, high = self.options.stretch
        if min(facts["stretches"]) < low or max(facts["stretches"]) > high:
            shown = ", ".join(f"{s:.2f}" for s in facts["stretches"])
            reasons.append(f"the head was stretched implausibly ({shown})")
        return reasons


def register_brain(volume: Volume, mask: NDArray[np.bool_], options: AlignmentOptions) -> tuple[Registration, float]:
    """Registers the template's brain to a scan's brain.

    Args:
        volume: a scan in any contrast.
        mask: `[X, Y, Z]`, the brain in it.
        options: the levels.

    Returns:
        The map from the template's world to the scan's, and the Dice of the masks under it.
    """
    brain = volume.with_array(np.where(mask, volume.array, _floor(volume, mask)))
    share = volume.with_array(mask.astype(np.float32))
    degrees = Degrees.RIGID if options.kind is AlignmentKind.RIGID else Degrees.AFFINE
    matrix, result = np.eye(4), Registration(np.eye(4), 0.0)
    for level, spacing in enumerate(options.spacings):
        template = load_template(spacing)
        region = _dilated(template.brain, options.rim)
        fixed = template.image
        moving = _coarse(brain, spacing)
        information = MutualInformation(fixed, moving, region)
        if level == 0:
            starts = _starts(template.brain, _coarse(share, spacing), options)
            matrix = best_starts(information, starts, 1, options.bins)[0]
            coarse = Degrees.RIGID if degrees is Degrees.RIGID else Degrees.SIMILARITY
            first = Optimiser(coarse, options.iterations, step=4.0, smallest_step=0.1, bins=options.bins)
            matrix = information.optimise(matrix, first).matrix
        optimiser = Optimiser(degrees, options.iterations, step=spacing / 6, smallest_step=0.01, bins=options.bins)
        result = information.optimise(matrix, optimiser)
        matrix = result.matrix
    return result, _overlap(share, result.matrix)


def _floor(volume: Volume, mask: NDArray[np.bool_]) -> np.float32:
    """A value for the outside of the brain that no tissue has: just below the darkest."""
    low, high = np.percentile(volume.array[mask], [1, 99])
    return np.float32(low - 0.1 * (high - low))


def _coarse(volume: Volume, spacing: float, margin: float = 30.0) -> Volume:
    shape, affine = isotropic_grid(volume, spacing, margin)
    return resample(volume, shape, affine, Interpolation.LINEAR, fill=background_value(volume))


def _dilated(brain: Volume, rim: float) -> NDArray[np.bool_]:
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(brain.array <= 0.5, sampling=brain.spacing)
    return np.asarray(distance <= rim)


def _starts(template: Volume, brain: Volume, options: AlignmentOptions) -> list[NDArray[np.float64]]:
    """Centre on centre at the brain's size, at several pitches."""
    here, there = centre_and_size(template), centre_and_size(brain)
    scale = 1.0 if options.kind is AlignmentKind.RIGID else float(np.cbrt(there[1] / here[1]))
    scale = float(np.clip(scale, 0.7, 1.4))
    return [
        shift(there[0] - here[0]) @ rotation_about(here[0], (pitch, 0, 0)) @ scaling(scale, here[0])
        for pitch in options.pitches
    ]


def _overlap(share: Volume, matrix: NDArray[np.float64], spacing: float = 2.0) -> float:
    template = load_template(spacing)
    carried = resample(
        Volume(share.array, np.linalg.inv(matrix) @ share.affine),
        template.brain.shape,
        template.brain.affine,
        Interpolation.LINEAR,
    )
    return overlap(carried.array > 0.5, template.mask)
