"""Whether a label or mask lies on the grid of a channel: one rule for checks, preprocessing, prediction and evaluation.

Its axes may be stored in another order or direction, and it may be off by what rounding in headers explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data.errors import DataError
from data.image_header import format_shape
from data.volume import SNAP_TOLERANCE, Volume, corner_displacement, snap, turned_like

SAME_GRID = 1e-3
"""Below this displacement of a corner, in mm, the grids of two files count as the same."""


@dataclass(frozen=True)
class Placement:
    """A label or mask on the grid of the channel that it was drawn on.

    Attributes:
        volume: its values on exactly that grid.
        channel: name of the channel.
        changes: what was done to bring it there, as sentences; empty if it lay there.
    """

    volume: Volume
    channel: str
    changes: tuple[str, ...]


def place(volume: Volume, channels: Mapping[str, Volume], name: str) -> Placement:
    """Puts a label or mask on the grid of the first channel that it fits.

    Raises:
        DataError: it lies on a different grid from every channel.
    """
    for channel, image in channels.items():
        try:
            placed = snap(volume, image)
        except ValueError:
            continue
        return Placement(placed, channel, _changes(volume, image, name, channel))
    faults = "; ".join(_fault(volume, image, channel) for channel, image in channels.items())
    raise DataError(
        f"{name}: on a different grid from {', '.join(channels)}: {faults}",
        expected="the grid of a channel",
        fix=f"export the {name} on the grid of the image, or check that both belong to one scan",
    )


def _changes(volume: Volume, image: Volume, name: str, channel: str) -> tuple[str, ...]:
    turned = turned_like(volume, image)
    changes = []
    if turned is not volume:
        changes.append(
            f"{name}: stored as {volume.orientation}, {channel} as {image.orientation}, in the same place: its axes "
            "are turned"
        )
    moved = corner_displacement(turned, image)
    if moved > SAME_GRID:
        changes.append(
            f"{name}: a corner lies {moved:.3g} mm from that of {channel}, which counts as rounding: it is put on the "
            "image's grid"
        )
    return tuple(changes)


def _fault(volume: Volume, image: Volume, channel: str) -> str:
    turned = turned_like(volume, image)
    if turned.shape != image.shape:
        return f"it has {format_shape(turned.shape)} voxels, {channel} {format_shape(image.shape)}"
    moved = corner_displacement(turned, image)
    allowed = SNAP_TOLERANCE * float(min(turned.spacing.min(), image.spacing.min()))
    return f"a corner lies {moved:.3g} mm from that of {channel} (up to {allowed:.3g} mm count as rounding)"
