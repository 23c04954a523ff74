"""Canonical orientation: array axes that run right, anterior, superior."""

from __future__ import annotations

from typing import ClassVar

import nibabel as nib

from data.options import Options
from data.volume import Volume, reorient
from preprocessing.step import Interpolation, Record, Step, grid_record, recorded_grid, require_grid
from preprocessing.subject import Subject


class OrientationOptions(Options):
    """Canonical orientation has no settings."""


class Orientation(Step[OrientationOptions]):
    """Permutes and flips every volume to the RAS+ axes nearest to its own; voxel values stay as they are."""

    name: ClassVar[str] = "canonical_orientation"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Turns all volumes to RAS+."""
        native = {
            name: grid_record(volume) | {"orientation": volume.orientation} for name, volume in subject.channels.items()
        }
        turned = subject.changed(to_canonical)
        record = self.record(native=grid_record(subject.reference), channels=native, grid=grid_record(turned.reference))
        return turned, record

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Turns a volume back to the axes of the raw scan."""
        volume = require_grid(volume, record["grid"], self.name)
        _, affine = recorded_grid(record["native"])
        return Volume(reorient(volume, "".join(nib.aff2axcodes(affine))).array, affine)


def to_canonical(volume: Volume) -> Volume:
    """Returns the volume with its array axes permuted and flipped to the nearest RAS+ ones."""
    return volume if volume.orientation == "RAS" else reorient(volume, "RAS")
