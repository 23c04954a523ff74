"""A subject: the volumes of one case in memory, as they pass through the preprocessing chain."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.case import Case
from data.errors import DataError
from data.image_file import read_label
from data.volume import Volume, corner_displacement, corners

logger = logging.getLogger(__name__)

GRID_TOLERANCE = 0.1
"""Largest corner displacement in mm between a label and its image that is taken for rounding in a header."""


@dataclass(frozen=True)
class Subject:
    """The volumes of one case.

    Before the chain every channel may have a grid of its own; after it all volumes share one.

    Attributes:
        name: the case's name.
        channels: channel name → `[X, Y, Z]` float32; the first channel is the reference: its grid is the native one.
        label: `[X, Y, Z]` int16 label map on the grid of one channel, or `None`.
        mask: `[X, Y, Z]` uint8, 1 in the brain (or other content), 0 outside; `None` until a step makes it.
    """

    name: str
    channels: Mapping[str, Volume]
    label: Volume | None = None
    mask: Volume | None = None

    @property
    def reference(self) -> Volume:
        """The first channel, whose grid is the native grid of the subject."""
        return next(iter(self.channels.values()))

    @property
    def reference_name(self) -> str:
        """The name of the first channel."""
        return next(iter(self.channels))

    def volumes(self) -> Iterator[Volume]:
        """Yields all volumes: the channels in order, then label and mask if there are any."""
        yield from self.channels.values()
        yield from (v for v in (self.label, self.mask) if v is not None)

    def one_grid(self) -> bool:
        """Whether all volumes lie on the reference's grid."""
        return all(v.same_grid(self.reference) for v in self.volumes())

    def with_channels(self, channels: Mapping[str, Volume]) -> Subject:
        """Returns the subject with other channel volumes."""
        return replace(self, channels=dict(channels))


def load_subject(case: Case, channels: Sequence[str] | None = None, tolerance: float = GRID_TOLERANCE) -> Subject:
    """Reads the files of a case.

    Args:
        case: the case to read.
        channels: the channels to read, in the order wanted; all by default.
        tolerance: corner displacement in mm up to which a label or mask is snapped to its image.

    Raises:
        DataError: a file cannot be read, holds NaN or infinite values, is constant, a channel is missing, or label or
            brain mask lie on another grid than every channel.
    """
    names = list(case.channels) if channels is None else list(channels)
    missing = [name for name in names if name not in case.channels]
    if missing or not names:
        raise DataError(
            f"case {case.name} has no channel {', '.join(missing) or 'at all'}",
            expected=f"channels among {', '.join(case.channels)}",
            fix="correct the list of channels or add the file",
        )
    volumes = {name: case.channels[name].read() for name in names}
    for name, volume in volumes.items():
        _check_values(case, case.channels[name].path, volume)
    paths = {name: case.channels[name].path for name in names}
    label = None
    if case.label is not None:
        label = _snap(case, case.label, case.read_label(), volumes, paths, tolerance)
    mask = None
    if case.brain_mask is not None:
        mask = _snap(case, case.brain_mask, read_label(case.brain_mask), volumes, paths, tolerance)
        mask = mask.with_array((mask.array > 0).astype(np.uint8))
    return Subject(case.name, volumes, label, mask)


def _check_values(case: Case, path: Path, volume: Volume) -> None:
    bad = int(volume.array.size - np.count_nonzero(np.isfinite(volume.array)))
    if bad:
        raise DataError(
            f"case {case.name}: {path} holds {bad} voxels that are NaN or infinite",
            expected="finite values",
            fix="export the image again or set these voxels to the background value",
        )
    if volume.array.max() == volume.array.min():
        raise DataError(
            f"case {case.name}: {path} is constant (every voxel is {volume.array.flat[0]:g})",
            expected="an image with contrast",
            fix="export the image again or leave the case out",
        )


def _displacement(first: Volume, second: Volume) -> float:
    """Largest distance in mm between like corners of two grids, of whatever shapes."""
    return float(np.linalg.norm(corners(first) - corners(second), axis=1).max())


def _snap(
    case: Case,
    path: Path,
    volume: Volume,
    channels: Mapping[str, Volume],
    paths: Mapping[str, Path],
    tolerance: float,
) -> Volume:
    """Puts a label or mask on the grid of the channel that it was drawn on."""
    for name, channel in channels.items():
        if channel.shape != volume.shape:
            continue
        displacement = corner_displacement(channel, volume)
        if displacement <= tolerance:
            if displacement > 1e-6:
                logger.info("%s: %s snapped to the grid of %s (%.4f mm off)", case.name, path, name, displacement)
            return Volume(volume.array, channel.affine)
    name, distance = min(((n, _displacement(c, volume)) for n, c in channels.items()), key=lambda item: item[1])
    shapes = " and ".join("×".join(map(str, v.shape)) for v in (volume, channels[name]))
    raise DataError(
        f"case {case.name}: {path} lies on another grid than {paths[name]} "
        f"(shapes {shapes}, corners {distance:.2f} mm apart)",
        expected=f"the grid of a channel, to {tolerance:g} mm",
        fix="resample the label to the image, or give the image that it was drawn on",
    )
