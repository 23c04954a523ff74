"""Resampling to one spacing: the only step that interpolates images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from data.options import Options
from data.volume import Volume
from preprocessing.grid import Shape, background_value, isotropic_grid, resample, respaced_grid
from preprocessing.step import Interpolation, Record, Step, grid_record, recorded_grid, require_grid
from preprocessing.subject import Subject


class ResamplingOptions(Options):
    """The grid that all volumes of all cases are brought to."""

    spacing: tuple[float, float, float] = Field(
        default=(1.0, 1.0, 1.0), description="Distance of voxel centres along the three axes, in mm."
    )

    @field_validator("spacing", mode="before")
    @classmethod
    def _isotropic(cls, value: object) -> object:
        return (value, value, value) if isinstance(value, int | float) else value

    @field_validator("spacing")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError(f"a spacing is above 0 mm, not {min(value):g}")
        return value


class Resampling(Step[ResamplingOptions]):
    """Samples every volume once from the grid on which it was scanned; earlier moves are in its affine.

    Args:
        options: the spacing.
        template_box: sample the box of the template (after alignment, so that all cases get one grid); else keep the
            axes and the field of view of the first channel.
    """

    name: ClassVar[str] = "resampling"

    def __init__(self, options: ResamplingOptions, template_box: bool = False) -> None:
        super().__init__(options)
        self.template_box = template_box

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Brings all volumes to the new grid."""
        before = subject.reference
        shape, affine = self._grid(before)

        after = subject.changed(
            lambda volume: resample(volume, shape, affine, Interpolation.LINEAR, background_value(volume)),
            lambda volume: resample(volume, shape, affine, Interpolation.NEAREST),
        )
        suspect = lost_labels(subject.label, after.label, subject.ignored)
        return after, self.record(suspect, before=grid_record(before), grid=grid_record(after.reference))

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Samples a volume at the voxels of the grid before."""
        volume = require_grid(volume, record["grid"], self.name)
        shape, affine = recorded_grid(record["before"])
        return resample(volume, shape, affine, interpolation)

    def _grid(self, volume: Volume) -> tuple[Shape, NDArray[np.float64]]:
        spacing = np.asarray(self.options.spacing)
        if not self.template_box:
            if np.abs(volume.spacing - spacing).max() < 1e-3:
                return volume.shape, volume.affine
            return respaced_grid(volume, spacing)
        from preprocessing.template import load_template

        shape, affine = isotropic_grid(load_template().image, 1.0)
        return respaced_grid(Volume(np.empty(shape, dtype=np.uint8), affine), spacing)


def lost_labels(before: Volume | None, after: Volume | None, ignored: Sequence[int] = ()) -> list[str]:
    """Returns a reason for each label value, other than ignored ones, that did not survive the resampling."""
    if before is None or after is None:
        return []
    lost = sorted(set(np.unique(before.array).tolist()) - set(np.unique(after.array).tolist()) - {0, *ignored})
    return [f"label {value:g} vanished in resampling" for value in lost]
