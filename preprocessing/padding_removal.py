"""Removal of padding, so that no later step sees it: a scan gives the same result however far it was padded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.borders import Box, content_box
from data.options import Options
from data.volume import Volume
from preprocessing.cropping import crop, place
from preprocessing.step import Interpolation, Record, Step, grid_record, require_grid
from preprocessing.subject import Subject


class PaddingRemovalOptions(Options):
    """What is left around a scan in wide air."""

    margin: float = Field(
        default=10.0,
        ge=0,
        description="Air kept around the content where the border is noise, in mm. Borders of one value leave none.",
    )


class PaddingRemoval(Step):
    """Cuts off borders that hold one value, or nothing but the noise of air.

    Every channel loses its own borders; channels on one grid stay on one grid. What is labelled, or in a brain mask
    that came with the case, is never cut off.
    """

    name: ClassVar[str] = "padding_removal"

    def __init__(self, options: PaddingRemovalOptions) -> None:
        self.options = options

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Crops the channels, and label and mask with the channels that they lie on."""
        drawn = [volume for volume in (subject.label, subject.mask) if volume is not None]
        contents = [
            (volume, content_box(volume.array, volume.spacing, self.options.margin))
            for volume in subject.channels.values()
        ] + [(volume, _drawn_box(volume.array)) for volume in drawn]

        def cut(volume: Volume) -> Volume:
            return crop(volume, _joint(box for other, box in contents if box is not None and other.same_grid(volume)))

        reference = subject.reference
        cropped = replace(
            subject.with_channels({name: cut(volume) for name, volume in subject.channels.items()}),
            label=None if subject.label is None else cut(subject.label),
            mask=None if subject.mask is None else cut(subject.mask),
        )
        shift = np.linalg.inv(reference.affine) @ cropped.reference.affine[:, 3]
        start = [round(float(index)) for index in shift[:3]]
        record = self.record(padded=grid_record(reference), grid=grid_record(cropped.reference), start=start)
        return cropped, record

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Puts the volume into zeros of the size before."""
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
