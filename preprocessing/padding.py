"""Padding to a multiple, for networks that halve the grid several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from data.options import Options
from data.volume import Volume
from preprocessing.cropping import crop
from preprocessing.grid import background_value
from preprocessing.step import Interpolation, Record, Step, grid_record, recorded_grid, require_grid
from preprocessing.subject import Subject


class PaddingOptions(Options):
    """To what the grid is padded."""

    multiple: int = Field(default=8, ge=1, description="Every axis becomes a multiple of this number of voxels.")


class Padding(Step[PaddingOptions]):
    """Adds background on both sides of every axis until its length is a multiple."""

    name: ClassVar[str] = "padding"

    def apply(self, subject: Subject) -> tuple[Subject, Record]:
        """Pads all volumes, which share one grid, alike."""
        reference = subject.reference
        room = [-n % self.options.multiple for n in reference.shape]
        width = [(m // 2, m - m // 2) for m in room]
        padded = subject.changed(
            lambda volume: _pad(volume, width, background_value(volume)), lambda volume: _pad(volume, width, 0)
        )
        start = [low for low, _ in width]
        record = self.record(before=grid_record(reference), grid=grid_record(padded.reference), start=start)
        return padded, record

    def invert(self, volume: Volume, record: Record, interpolation: Interpolation) -> Volume:
        """Cuts the added voxels off."""
        volume = require_grid(volume, record["grid"], self.name)
        shape, affine = recorded_grid(record["before"])
        box = tuple(slice(s, s + n) for s, n in zip(record["start"], shape, strict=True))
        return Volume(crop(volume, box).array, affine)


def scan_box(records: Sequence[Record]) -> list[tuple[int, int]] | None:
    """The voxels of a preprocessed grid that padding did not add, as the first and the end along each axis.

    Args:
        records: of all steps of a chain.

    Returns:
        `None` if nothing was added.
    """
    for record in records:
        if record["step"] == Padding.name and record["before"]["shape"] != record["grid"]["shape"]:
            return [(low, low + n) for low, n in zip(record["start"], record["before"]["shape"], strict=True)]
    return None


def _pad(volume: Volume, width: list[tuple[int, int]], value: float) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] -= volume.affine[:3, :3] @ np.array([low for low, _ in width])
    array = np.pad(volume.array, width, constant_values=np.asarray(value, dtype=volume.array.dtype))
    return Volume(array, affine)
