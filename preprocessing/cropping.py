"""Cropping to the content, so that no time is spent on air."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.options import Options
from data.volume import Volume
from preprocessing.content import content_mask
from preprocessing.step import Interpolation, Record, Step, grid_record, recorded_grid, require_grid
from preprocessing.subject import Subject


class CroppingOptions(Options):
    """How tightly the volumes are cropped."""

    margin: float = Field(default=5.0, ge=0, description="Room kept around the content, in mm.")


class Cropping(Step[CroppingOptions]):
    """Keeps the bounding box of the mask (without one: of what differs from the background) and a margin."""

    name: ClassVar[str] = "cropping"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Crops all volumes, which share one grid, to one box."""
        reference = subject.reference
        content = subject.mask.array > 0 if subject.mask is not None else content_mask(reference)
        box = _box(content, self.options.margin / reference.spacing)
        start = [s.start for s in box]
        suspect = []
        if subject.label is not None:
            drawn = subject.structures(subject.label)
            lost = int(np.count_nonzero(drawn) - np.count_nonzero(drawn[box]))
            if lost:
                suspect.append(f"{lost} labelled voxels lie outside the content and were cut off")
        cropped = subject.changed(lambda volume: crop(volume, box))
        record = self.record(suspect, before=grid_record(reference), grid=grid_record(cropped.reference), start=start)
        return cropped, record

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Embeds the volume in zeros of the size before cropping."""
        volume = require_grid(volume, record["grid"], self.name)
        return place(volume, record["before"], record["start"])


def crop(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """Returns the part of a volume in a box of voxel indices."""
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, :3] @ np.array([s.start for s in box])
    return Volume(np.ascontiguousarray(volume.array[box]), affine)


def place(volume: Volume, grid: dict[str, Any], start: list[int]) -> Volume:
    """Returns zeros on a recorded grid, in which the volume starts at voxel index `start`."""
    shape, affine = recorded_grid(grid)
    array = np.zeros(shape, dtype=volume.array.dtype)
    array[tuple(slice(s, s + n) for s, n in zip(start, volume.shape, strict=True))] = volume.array
    return Volume(array, affine)


def _box(content: NDArray[np.bool_], margin: NDArray[np.float64]) -> tuple[slice, ...]:
    found = ndimage.find_objects(content.astype(np.int8))
    if not found or found[0] is None:
        return tuple(slice(0, n) for n in content.shape)
    room = np.ceil(margin - 1e-6).astype(int)
    return tuple(
        slice(max(0, s.start - int(m)), min(n, s.stop + int(m)))
        for s, m, n in zip(found[0], room, content.shape, strict=True)
    )
