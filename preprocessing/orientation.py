"""Canonical orientation: array axes that run right, anterior, superior."""

from __future__ import annotations

from typing import ClassVar

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from data.options import Options
from data.volume import Volume
from preprocessing.step import Interpolation, Record, Step, grid_record, recorded_grid, require_grid
from preprocessing.subject import Subject

_CANONICAL = axcodes2ornt("RAS")


class OrientationOptions(Options):
    """Canonical orientation has nothing to set."""


class Orientation(Step):
    """Permutes and flips every volume to the RAS+ axes nearest to its own; voxel values stay as they are."""

    name: ClassVar[str] = "canonical_orientation"

    def __init__(self, options: OrientationOptions) -> None:
        self.options = options

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Turns all volumes to RAS+."""
        native = {
            name: grid_record(volume) | {"orientation": volume.orientation} for name, volume in subject.channels.items()
        }
        turned = Subject(
            subject.name,
            {name: to_canonical(volume) for name, volume in subject.channels.items()},
            None if subject.label is None else to_canonical(subject.label),
            None if subject.mask is None else to_canonical(subject.mask),
        )
        record = self.record(native=grid_record(subject.reference), channels=native, grid=grid_record(turned.reference))
        return turned, record

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Turns a volume back to the axes of the raw scan."""
        volume = require_grid(volume, record["grid"], self.name)
        _, affine = recorded_grid(record["native"])
        turn = ornt_transform(_CANONICAL, _axes(affine))
        return Volume(np.ascontiguousarray(apply_orientation(volume.array, turn)), affine)


def to_canonical(volume: Volume) -> Volume:
    """Returns the volume with its array axes permuted and flipped to the nearest RAS+ ones."""
    axes = _axes(volume.affine)
    if nib.orientations.ornt2axcodes(axes) == ("R", "A", "S"):
        return volume
    array = np.ascontiguousarray(apply_orientation(volume.array, axes))
    return Volume(array, volume.affine @ inv_ornt_aff(axes, volume.shape))


def _axes(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return io_orientation(affine)
