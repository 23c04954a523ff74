"""A subject: the volumes of one case in memory, as they pass through the preprocessing chain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.case import Case
from data.errors import DataError
from data.image_header import LEAST_VOXELS, impossible_extent, thinness
from data.shared_grid import place
from data.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """The volumes of one case.

    Before the chain every channel may have a grid of its own; after it all volumes share one.

    Attributes:
        name: the case's name.
        channels: channel name → `[X, Y, Z]` float32; the first channel is the reference: its grid is the native one.
        label: `[X, Y, Z]` int16 label map on the grid of one channel, or `None`.
        mask: `[X, Y, Z]` uint8, 1 in the brain (or other content), 0 outside; `None` until a step makes it.
        ignored: values of voxels of the label that are not annotated. Steps carry them like any label; what they add
            around a label is background.
    """

    name: str
    channels: Mapping[str, Volume]
    label: Volume | None = None
    mask: Volume | None = None
    ignored: tuple[int, ...] = ()

    @property
    def reference(self) -> Volume:
        """The first channel, whose grid is the native grid of the subject."""
        return next(iter(self.channels.values()))

    @property
    def reference_name(self) -> str:
        """The name of the first channel."""
        return next(iter(self.channels))

    def image(self) -> NDArray[np.float32]:
        """The channels, which share a grid, as one array `[C, X, Y, Z]`."""
        return np.stack([volume.array.astype(np.float32, copy=False) for volume in self.channels.values()])

    def content(self) -> NDArray[np.bool_]:
        """Where the mask is 1, `[X, Y, Z]`; everywhere if there is none."""
        return np.ones(self.reference.shape, dtype=bool) if self.mask is None else self.mask.array > 0

    def structures(self, label: Volume) -> NDArray[np.bool_]:
        """Where a label map of this subject shows a structure, `[X, Y, Z]`: neither background nor ignored."""
        return ~np.isin(label.array, (0, *self.ignored))

    def volumes(self) -> Iterator[Volume]:
        """Yields all volumes: the channels in order, then label and mask if there are any."""
        yield from self.channels.values()
        yield from (v for v in (self.label, self.mask) if v is not None)

    def one_grid(self) -> bool:
        """Whether all volumes lie on the reference's grid."""
        return all(v.same_grid(self.reference) for v in self.volumes())

    def changed(self, image: Callable[[Volume], Volume], drawn: Callable[[Volume], Volume] | None = None) -> Subject:
        """Returns the subject with every volume changed: channels by `image`, label and mask by `drawn` if given."""
        drawn = drawn or image
        return replace(
            self,
            channels={name: image(volume) for name, volume in self.channels.items()},
            label=None if self.label is None else drawn(self.label),
            mask=None if self.mask is None else drawn(self.mask),
        )

    def with_channels(self, channels: Mapping[str, Volume]) -> Subject:
        """Returns the subject with other channel volumes."""
        return replace(self, channels=dict(channels))


def load_subject(case: Case, channels: Sequence[str] | None = None, ignored: Sequence[int] = ()) -> Subject:
    """Reads the files of a case; `ignored` are the values of voxels of its label that are not annotated.

    Raises:
        DataError: a file cannot be read, holds NaN or infinite values, is constant or too thin, a channel is missing,
            or label or brain mask lie on a different grid from every channel.
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
        check_image(case.name, str(case.channels[name].path), volume)
    label = mask = None
    if case.label is not None:
        label = _placed(case, f"label {case.label}", case.read_label(), volumes)
    if case.brain_mask is not None:
        mask = _placed(case, f"brain mask {case.brain_mask}", case.read_brain_mask(), volumes)
    return Subject(case.name, volumes, label, mask, tuple(ignored))


def _placed(case: Case, name: str, volume: Volume, channels: Mapping[str, Volume]) -> Volume:
    """Puts a label or mask on the grid of the channel that it was drawn on, and logs what was done to it."""
    try:
        placement = place(volume, channels, name)
    except DataError as error:
        raise DataError(f"case {case.name}: {error.found}", expected=error.expected, fix=error.fix) from error
    for change in placement.changes:
        logger.info("case %s: %s", case.name, change)
    return placement.volume


def check_image(case: str, image: str, volume: Volume) -> None:
    """Refuses an image that cannot be used.

    Raises:
        DataError: it holds NaN or infinite values, is constant, too thin, or of an impossible size.
    """
    if impossible := impossible_extent(volume.shape, volume.spacing):
        raise DataError(
            f"case {case}: {image} {impossible}",
            expected="the size of a scan",
            fix="correct the spacing in the header, or export the image again",
        )
    if thin := thinness(volume.shape):
        raise DataError(
            f"case {case}: {image} {thin}",
            expected=f"{LEAST_VOXELS} voxels or more along each axis",
            fix="provide the whole volume, or leave the case out",
        )
    bad = int(volume.array.size - np.count_nonzero(np.isfinite(volume.array)))
    if bad:
        raise DataError(
            f"case {case}: {image} holds {bad} voxels that are NaN or infinite",
            expected="finite values",
            fix="export the image again or set these voxels to the background value",
        )
    if volume.array.max() == volume.array.min():
        raise DataError(
            f"case {case}: {image} is constant (every voxel is {volume.array.flat[0]:g})",
            expected="an image with contrast",
            fix="export the image again or leave the case out",
        )
