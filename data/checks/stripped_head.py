"""A brain that was skull-stripped already, given as a raw head: stripping it again would remove brain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from data.borders import outer_faces
from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.modality import Modality
from data.plain_number import plain_number
from data.volume import Volume

CHECK = "stripped_head"
_BRAIN_ML = (500.0, 2300.0)
"""From an infant's brain to more than any brain; a head with scalp and face is larger."""
_STEP_MM = 2.5
"""Voxel size that suffices to measure a volume."""
_BARE = 0.9
"""Share of each face of the field of view that has to be background: a head crosses the lower face."""


def stripped_brain_ml(volume: Volume) -> float | None:
    """Returns the volume of a skull-stripped brain in ml; `None` where the scan does not look like one.

    A stripped brain lies free in a background of exactly one value and has a brain's size. The air of a raw scan is
    noisy, and where it was cleared the head is larger, or reaches the edge of the field of view.
    """
    array = volume.array
    faces = outer_faces(array)
    background = np.median(np.concatenate([face.ravel() for face in faces]))
    if any(np.mean(face == background) < _BARE for face in faces):
        return None
    step = np.maximum(1, np.floor(_STEP_MM / volume.spacing)).astype(int)
    content = array[:: step[0], :: step[1], :: step[2]] != background
    pieces, _ = ndimage.label(content)
    largest = int(np.bincount(pieces.ravel())[1:].max(initial=0))
    millilitres = largest * float(np.prod(step)) * volume.voxel_volume / 1000
    return millilitres if _BRAIN_ML[0] <= millilitres <= _BRAIN_ML[1] else None


def check_stripped_head(case: CaseObservation) -> Iterator[Finding]:
    """A scan of the modality `mr_head` is skull-stripped already."""
    if case.modality is not Modality.MR_HEAD or case.case.brain_mask is not None:
        return
    for name, volume in case.images.items():
        millilitres = stripped_brain_ml(volume)
        if millilitres is not None:
            found = f"{name}: looks skull-stripped already ({plain_number(millilitres)} ml in an even background), "
            found += f"and the modality {Modality.MR_HEAD.value} strips it again"
            fix = f"use the modality {Modality.MR_BRAIN.value} for stripped scans, or give the raw head or a brain mask"
            yield Finding(Level.WARNING, case.case.name, CHECK, found, fix)
