"""What a plan has to know of a dataset: grids, sizes of the scans and of the structures, Hounsfield units of a CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.borders import content_box
from data.case import Case
from data.modality import Modality
from data.volume import Volume, reorient
from preprocessing.cropping import CroppingOptions

Structures = Mapping[str, tuple[int, ...]]
"""Class name → values in the label maps."""

LOOKED_AT = 40
"""Annotated cases that are read; medians of more do not change a plan."""


@dataclass(frozen=True)
class CaseFingerprint:
    """One annotated case.

    Attributes:
        name: of the case.
        spacing: `[3]` mm along right, anterior, superior.
        extent: `[3]` mm of what preprocessing leaves of the field of view.
        boxes: class → `[3]` mm of the box around all its voxels, where there are any.
        foreground_range: grey values that 99 % of the labelled voxels lie within.
    """

    name: str
    spacing: NDArray[np.float64]
    extent: NDArray[np.float64]
    boxes: Mapping[str, NDArray[np.float64]]
    foreground_range: tuple[float, float] | None


@dataclass(frozen=True)
class Fingerprint:
    """Medians over the annotated cases that were looked at."""

    cases: tuple[CaseFingerprint, ...]

    @cached_property
    def spacings(self) -> NDArray[np.float64]:
        """`[N, 3]` mm."""
        return np.stack([case.spacing for case in self.cases])

    @cached_property
    def extent(self) -> NDArray[np.float64]:
        """`[3]` mm: the median field of view."""
        median: NDArray[np.float64] = np.median([case.extent for case in self.cases], axis=0)
        return median

    @cached_property
    def structure(self) -> NDArray[np.float64]:
        """`[3]` mm: the largest of the structures' median boxes along each axis."""
        boxes: dict[str, list[NDArray[np.float64]]] = {}
        for case in self.cases:
            for name, box in case.boxes.items():
                boxes.setdefault(name, []).append(box)
        largest: NDArray[np.float64] = np.max([np.median(own, axis=0) for own in boxes.values()], axis=0)
        return largest

    @property
    def foreground_range(self) -> tuple[float, float]:
        """Grey values that hold the structures of all cases, but for half a percent at each end."""
        ranges = [case.foreground_range for case in self.cases if case.foreground_range is not None]
        return min(low for low, _ in ranges), max(high for _, high in ranges)


def looked_at(cases: Sequence[Case]) -> list[Case]:
    """Returns the cases that a fingerprint reads: all, or so many that lie evenly among them."""
    chosen = np.linspace(0, len(cases) - 1, min(len(cases), LOOKED_AT)).round().astype(int)
    return [cases[index] for index in chosen]


def fingerprint(cases: Sequence[Case], channel: str, structures: Structures, modality: Modality) -> Fingerprint:
    """Reads annotated cases.

    Args:
        cases: which; see `looked_at`.
        channel: whose grid is the native one.
        structures: what is segmented.
        modality: of the scans; its chain says what is cut off.

    Raises:
        DataError: a file cannot be read.
    """
    return Fingerprint(tuple(_of_case(case, channel, structures, modality) for case in cases))


def _of_case(case: Case, channel: str, structures: Structures, modality: Modality) -> CaseFingerprint:
    image, label = reorient(case.channels[channel].read(), "RAS"), reorient(case.read_label(), "RAS")
    inside = np.isin(label.array, [value for values in structures.values() for value in values])
    drawn_here = label.shape == image.shape and inside.any()
    ends = np.percentile(image.array[inside], [0.5, 99.5]) if drawn_here else None
    boxes = {name: _box(np.isin(label.array, values), label.spacing) for name, values in structures.items()}
    return CaseFingerprint(
        case.name,
        image.spacing,
        _extent(image, modality),
        {name: box for name, box in boxes.items() if box is not None},
        None if ends is None else (float(ends[0]), float(ends[1])),
    )


def _box(inside: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64] | None:
    found = ndimage.find_objects(inside.astype(np.int8))
    return np.array([s.stop - s.start for s in found[0]]) * spacing if found and found[0] is not None else None


def _extent(image: Volume, modality: Modality) -> NDArray[np.float64]:
    """What the modality's chain leaves: a head is cropped to its brain, other scans lose borders that show nothing."""
    if modality is Modality.MR_HEAD:
        from preprocessing.template import load_template

        template = load_template()
        brain = _box(template.mask, template.brain.spacing)
        return (0 if brain is None else brain) + 2 * np.full(3, CroppingOptions().margin)
    if modality is Modality.MR_BRAIN:
        box = content_box(image.array, image.spacing, CroppingOptions().margin)
    else:
        box = content_box(image.array, image.spacing)
    return np.array([s.stop - s.start for s in box]) * image.spacing
