"""Finding the brain in a raw head: an affine map from the template, from many starts.

The head model (`template.head_model`) is compared with the scan by mutual information, which knows no contrast. The
centre of mass of a head is useless as a start where a neck or shoulders are in view, so the starts are placed by the
top of the head, or by the middle of the field of view if the top is cut off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.volume import Volume
from preprocessing.content import foreground_mask, largest_component
from preprocessing.grid import coarse
from preprocessing.registration import (
    Degrees,
    MutualInformation,
    Optimiser,
    Registration,
    best_starts,
    centred_starts,
    rotation_about,
    scaling,
    shift,
)
from preprocessing.template import head_model

# Landmarks of the template's brain in ICBM-152 millimetres.
_BRAIN_CENTRE = np.array([0.0, -18.0, 10.0])
_SCALP_TOP = 92.0
_HEAD_HEIGHT = 130.0


_SPACINGS = (8.0, 4.0)
"""Voxel size in mm of the levels."""
_PITCHES = (-25.0, -12.0, 0.0, 12.0, 25.0)
"""Turns about the left-right axis that are tried, in degrees."""
_DROPS = (-12.0, 0.0, 12.0, 24.0)
"""Distances in mm by which the brain is tried lower than the top of the head suggests."""
_RISES = (-6.0, 0.0, 6.0)
"""Distances in mm by which the brain is tried higher than a rough mask suggests."""
_SCALES = (0.9, 1.0)
"""Sizes relative to the template that are tried."""
ITERATIONS = 80
"""Largest number of optimiser steps at each level."""


def working_copy(volume: Volume, spacing: float, margin: float = 24.0) -> Volume:
    """Returns the volume on a world-aligned isotropic grid with air around it, clipped to its 99.8th percentile."""
    small = coarse(volume, spacing, margin)
    low, high = np.percentile(small.array, [0.1, 99.8])
    return small.with_array(np.clip(small.array, low, high))


def find_head(volume: Volume, rough: Volume | None = None, keep: int = 4) -> tuple[Registration, list[float]]:
    """Registers the template's head model to a raw head.

    Args:
        volume: a raw head scan of any contrast.
        rough: a rough brain mask, if one is known: the starts are then placed by it, not by the top of the head.
        keep: how many starts are followed at the coarsest level.

    Returns:
        The affine map from the template's world to the scan's, and the metric of each start that was followed.
    """
    information = _information(volume, _SPACINGS[0])
    if rough is None:
        starts = _starts(_anchors(volume))
    else:
        starts = centred_starts(head_model(_SPACINGS[0]).brain, rough, _PITCHES, (0.8, 1.25), _RISES)
    promising = _distinct(best_starts(information, starts, 4 * keep), keep)
    first = Optimiser(Degrees.SIMILARITY, ITERATIONS, step=4.0, smallest_step=0.1)
    followed = [information.optimise(start, first) for start in promising]
    best = max(followed, key=lambda r: r.metric)
    best = information.optimise(best.matrix, Optimiser(Degrees.AFFINE, ITERATIONS, step=1.5, smallest_step=0.1))
    for spacing in _SPACINGS[1:]:
        finer = _information(volume, spacing)
        best = finer.optimise(best.matrix, Optimiser(Degrees.AFFINE, ITERATIONS, step=0.7, smallest_step=0.03))
    return best, [r.metric for r in followed]


def _information(volume: Volume, spacing: float) -> MutualInformation:
    model = head_model(spacing)
    return MutualInformation(model.image, working_copy(volume, spacing), model.region)


def _distinct(starts: list[NDArray[np.float64]], keep: int, apart: float = 8.0) -> list[NDArray[np.float64]]:
    """Chooses the best starts whose landmarks of the brain lie at least `apart` mm from those chosen before."""
    landmarks = _BRAIN_CENTRE + np.array([[0, 0, 0], [0, 70, 0], [0, -70, 0], [0, 0, 60]])
    taken: list[NDArray[np.float64]] = []
    places: list[NDArray[np.float64]] = []
    for start in starts:
        place = landmarks @ start[:3, :3].T + start[:3, 3]
        if all(np.linalg.norm(place - p, axis=1).mean() > apart for p in places):
            taken.append(start)
            places.append(place)
        if len(taken) == keep:
            break
    return taken


def _starts(anchors: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    return [
        shift(anchor - [0, 0, drop] - _BRAIN_CENTRE)
        @ rotation_about(_BRAIN_CENTRE, (pitch, 0, 0))
        @ scaling(scale, _BRAIN_CENTRE)
        for anchor in anchors
        for drop in _DROPS
        for pitch in _PITCHES
        for scale in _SCALES
    ]


def _anchors(volume: Volume, spacing: float = 4.0) -> list[NDArray[np.float64]]:
    """Returns world points `[3]` in mm where the middle of the brain may be."""
    small = working_copy(volume, spacing, margin=0.0)
    head = largest_component(ndimage.binary_opening(foreground_mask(small)))
    area = head.sum(axis=(0, 1)) * spacing**2
    # A slice of the skull-cap is larger than noise: 20 cm².
    slices = np.flatnonzero(area > 2000)
    if not len(slices):
        middle = (np.array(small.shape) - 1) / 2
        return [small.affine[:3, :3] @ middle + small.affine[:3, 3]]
    top = slices[-1]
    upper = np.argwhere(head[:, :, max(0, int(top - _HEAD_HEIGHT / spacing)) : top + 1])
    middle = np.array([(upper[:, axis].min() + upper[:, axis].max()) / 2 for axis in (0, 1)] + [top])
    crown = small.affine[:3, :3] @ middle + small.affine[:3, 3]
    return [crown - [0, 0, _SCALP_TOP - _BRAIN_CENTRE[2]]]
