"""Removal of padding, so that no later step sees it: a scan gives the same result however far it was padded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.borders import Box, content_box
from data.options import Options
from data.volume import Volume
from preprocessing.cropping import crop, place
from preprocessing.step import Interpolation, Record, Step, grid_record, require_grid
from preprocessing.subject import Subject


class PaddingRemovalOptions(Options):
    """Removal of padding has no settings."""


class PaddingRemoval(Step[PaddingRemovalOptions]):
    """Cuts off borders that hold one value, or nothing but the noise of air.

    Every channel loses its own borders; channels on one grid stay on one grid. Labelled voxels, and those of a brain
    mask that came with the case, are never cut off. 10 mm of noisy air are kept around the content.
    """

    name: ClassVar[str] = "padding_removal"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Crops the channels, and label and mask with the channels that they lie on."""
        drawn = [volume for volume in (subject.label, subject.mask) if volume is not None]
        contents = [(volume, content_box(volume.array, volume.spacing)) for volume in subject.channels.values()] + [
            (volume, _drawn_box(volume.array)) for volume in drawn
        ]

        def cut(volume: Volume) -> Volume:
            return crop(volume, _joint(box for other, box in contents if box is not None and other.same_grid(volume)))

        reference = subject.reference
        cropped = subject.changed(cut)
        shift = np.linalg.inv(reference.affine) @ cropped.reference.affine[:, 3]
        start = [round(float(index)) for index in shift[:3]]
        record = self.record(padded=grid_record(reference), grid=grid_record(cropped.reference), start=start)
        return cropped, record

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Embeds the volume in zeros of the size before."""
        volume = require_grid(volume, record["grid"], self.name)
        return place(volume, record["padded"], record["start"])


def _drawn_box(array: NDArray) -> Box | None:
    for box in ndimage.find_objects((array > 0).astype(np.int8)):
        if box is not None:
            x, y, z = box
            return x, y, z
    return None


def _joint(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all boxes."""
    x, y, z = (slice(min(s.start for s in ends), max(s.stop for s in ends)) for ends in zip(*boxes, strict=True))
    return x, y, z
