"""Alignment to the ICBM-152 template, so that like anatomy has like coordinates in all cases."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from data.volume import Volume
from preprocessing.content import content_mask, overlap
from preprocessing.coregistration import moved as in_fixed_world
from preprocessing.grid import coarse, resample
from preprocessing.registration import (
    Degrees,
    MutualInformation,
    Optimiser,
    Registration,
    best_starts,
    centred_starts,
    rotation_angle,
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


_PITCHES = (-20.0, 0.0, 20.0)
"""Turns about the left-right axis that are tried first, in degrees."""
_MARGIN_MM = 30.0
"""Background kept around the brain, so that it may move."""
_RIM_MM = 6.0
"""Width of the rim around the template's brain that counts in the metric."""
_SCALES = (0.7, 1.4)
"""Range of the size of a head relative to the template, at the start."""
_LEAST_OVERLAP = 0.88
"""Dice of brain mask and template mask below which an alignment is suspect; heads that were aligned well have more."""
_LARGEST_DEGREES = 40.0
"""Turn above which an alignment is suspect: nobody lies in a scanner like that."""
_STRETCH = (0.75, 1.35)
"""An alignment that stretches less or more than this along any axis is suspect."""


class AlignmentOptions(Options):
    """How the brain is registered to the brain of the template."""

    kind: AlignmentKind = Field(default=AlignmentKind.AFFINE, description="What the alignment may do.")
    spacings: tuple[float, ...] = Field(
        default=(6.0, 3.0), min_length=1, description="Voxel size in mm of each level, coarse to fine."
    )


class Alignment(Step[AlignmentOptions]):
    """Moves all volumes into the template's world.

    Only affines change; the voxels are interpolated once, by the resampling step that follows.
    """

    name: ClassVar[str] = "alignment"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Registers the brain (mask, or content of the first channel) to the template's brain."""
        before = subject.reference
        if self.options.kind is AlignmentKind.NONE:
            grid = grid_record(before)
            return subject, self.record(kind="none", matrix=np.eye(4).tolist(), before=grid, grid=grid)
        mask = content_mask(before) if subject.mask is None else subject.mask.array > 0
        if not mask.any():
            mask = content_mask(before)
        degrees = Degrees.RIGID if self.options.kind is AlignmentKind.RIGID else Degrees.AFFINE
        found, dice = register_brain(before, mask, degrees, self.options.spacings)
        moved = subject.changed(lambda volume: in_fixed_world(volume, found.matrix))
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
        if self.options.kind is AlignmentKind.AFFINE and facts["overlap"] < _LEAST_OVERLAP:
            reasons.append(f"brain and template overlap badly after alignment (Dice {facts['overlap']:.2f})")
        if facts["angle_degrees"] > _LARGEST_DEGREES:
            reasons.append(f"the head was turned by {facts['angle_degrees']:.0f} degrees")
        low, high = _STRETCH
        if min(facts["stretches"]) < low or max(facts["stretches"]) > high:
            shown = ", ".join(f"{s:.2f}" for s in facts["stretches"])
            reasons.append(f"the head was stretched implausibly ({shown})")
        return reasons


def register_brain(
    volume: Volume,
    mask: NDArray[np.bool_],
    degrees: Degrees,
    spacings: Sequence[float],
    iterations: int = 60,
) -> tuple[Registration, float]:
    """Registers the template's brain to the brain `mask` `[X, Y, Z]` of a scan in any contrast.

    Returns:
        The map from the template's world to the scan's, and the Dice of the masks under it.
    """
    brain = volume.with_array(np.where(mask, volume.array, _floor(volume, mask)))
    share = volume.with_array(mask.astype(np.float32))
    rigid = degrees is Degrees.RIGID
    matrix, result = np.eye(4), Registration(np.eye(4), 0.0)
    for level, spacing in enumerate(spacings):
        template = load_template(spacing)
        region = _dilated(template.brain, _RIM_MM)
        information = MutualInformation(template.image, coarse(brain, spacing, _MARGIN_MM), region)
        if level == 0:
            scales = (1.0, 1.0) if rigid else _SCALES
            starts = centred_starts(template.brain, coarse(share, spacing, _MARGIN_MM), _PITCHES, scales)
            (matrix,) = best_starts(information, starts)
            first = Optimiser(Degrees.RIGID if rigid else Degrees.SIMILARITY, iterations, step=4.0, smallest_step=0.1)
            matrix = information.optimise(matrix, first).matrix
        result = information.optimise(matrix, Optimiser(degrees, iterations, step=spacing / 6, smallest_step=0.01))
        matrix = result.matrix
    return result, _overlap(share, result.matrix)


def _floor(volume: Volume, mask: NDArray[np.bool_]) -> np.float32:
    """A value for the outside of the brain that no tissue has: just below the darkest."""
    low, high = np.percentile(volume.array[mask], [1, 99])
    return np.float32(low - 0.1 * (high - low))


def _dilated(brain: Volume, rim: float) -> NDArray[np.bool_]:
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(brain.array <= 0.5, sampling=brain.spacing)
    return np.asarray(distance <= rim)


def _overlap(share: Volume, matrix: NDArray[np.float64], spacing: float = 2.0) -> float:
    template = load_template(spacing)
    carried = resample(
        Volume(share.array, np.linalg.inv(matrix) @ share.affine),
        template.brain.shape,
        template.brain.affine,
        Interpolation.LINEAR,
    )
    return overlap(carried.array > 0.5, template.mask)
