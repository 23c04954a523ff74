"""Finding the brain in a raw head: an affine map from the template, from many starts.

The head model (`template.head_model`) is compared with the scan by mutual information, which knows no contrast. The
centre of mass of a head is useless as a start where a neck or shoulders are in view, so the starts hang from the top of
the head, and from the middle of the field of view where the top is cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.volume import Volume
from preprocessing.content import foreground_mask, largest_component
from preprocessing.grid import background_value, isotropic_grid, resample
from preprocessing.registration import (
    Degrees,
    MutualInformation,
    Optimiser,
    Registration,
    best_starts,
    centre_and_size,
    rotation_about,
    scaling,
    shift,
)
from preprocessing.step import Interpolation
from preprocessing.template import head_model

# Landmarks of the template's brain in ICBM-152 millimetres.
_BRAIN_CENTRE = np.array([0.0, -18.0, 10.0])
_SCALP_TOP = 92.0
_HEAD_HEIGHT = 130.0


@dataclass(frozen=True)
class HeadSearch:
    """How hard the head is searched for.

    Attributes:
        spacings: voxel size in mm of the levels, coarse to fine.
        pitches: turns about the left-right axis that are tried, in degrees.
        drops: distances in mm by which the brain is tried lower than the top of the head says.
        scales: sizes relative to the template that are tried.
        keep: how many starts are optimised at the coarsest level.
        iterations: the most optimiser steps of a level.
        bins: histogram bins of the mutual information.
    """

    spacings: tuple[float, ...] = (8.0, 4.0)
    pitches: tuple[float, ...] = (-25.0, -12.0, 0.0, 12.0, 25.0)
    drops: tuple[float, ...] = (-12.0, 0.0, 12.0, 24.0)
    scales: tuple[float, ...] = (0.9, 1.0)
    keep: int = 4
    iterations: int = 80
    bins: int = 32


def working_copy(volume: Volume, spacing: float, margin: float = 24.0) -> Volume:
    """Returns the volume on a world-aligned isotropic grid with air around it, clipped to its 99.8th percentile."""
    shape, affine = isotropic_grid(volume, spacing, margin)
    small = resample(volume, shape, affine, Interpolation.LINEAR, fill=background_value(volume))
    low, high = np.percentile(small.array, [0.1, 99.8])
    return small.with_array(np.clip(small.array, low, high))


def find_head(volume: Volume, search: HeadSearch, rough: Volume | None = None) -> tuple[Registration, list[float]]:
    """Registers the template's head model to a raw head.

    Args:
        volume: a raw head scan of any contrast.
        search: how hard to search.
        rough: a rough brain mask, if one is known: the starts then hang from it and not from the top of the head.

    Returns:
        The affine map from the template's world to the scan's, and the metric of each start that was followed.
    """

    def level(degrees: Degrees, step: float, smallest: float) -> Optimiser:
        return Optimiser(degrees, search.iterations, step, smallest, search.bins)

    information = _information(volume, search.spacings[0])
    starts = _starts(_anchors(volume), search) if rough is None else _starts_from_mask(rough, search)
    promising = _distinct(best_starts(information, starts, 4 * search.keep, search.bins), search.keep)
    followed = [information.optimise(start, level(Degrees.SIMILARITY, 4.0, 0.1)) for start in promising]
    best = max(followed, key=lambda r: r.metric)
    best = information.optimise(best.matrix, level(Degrees.AFFINE, 1.5, 0.1))
    for spacing in search.spacings[1:]:
        finer = _information(volume, spacing)
        best = finer.optimise(best.matrix, level(Degrees.AFFINE, 0.7, 0.03))
    return best, [r.metric for r in followed]


def _information(volume: Volume, spacing: float) -> MutualInformation:
    model = head_model(spacing)
    return MutualInformation(model.image, working_copy(volume, spacing), model.region)


def _distinct(starts: list[NDArray[np.float64]], keep: int, apart: float = 8.0) -> list[NDArray[np.float64]]:
    """Takes the best starts that put the brain's landmarks at least `apart` mm from those taken before."""
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


def _starts(anchors: list[NDArray[np.float64]], search: HeadSearch) -> list[NDArray[np.float64]]:
    return [
        shift(anchor - [0, 0, drop] - _BRAIN_CENTRE)
        @ rotation_about(_BRAIN_CENTRE, (pitch, 0, 0))
        @ scaling(scale, _BRAIN_CENTRE)
        for anchor in anchors
        for drop in search.drops
        for pitch in search.pitches
        for scale in search.scales
    ]


def _starts_from_mask(rough: Volume, search: HeadSearch) -> list[NDArray[np.float64]]:
    """Centre on centre at the mask's size, at several pitches and a little higher or lower."""
    template = head_model(search.spacings[0]).brain
    here, there = centre_and_size(template), centre_and_size(rough)
    scale = float(np.clip(np.cbrt(there[1] / here[1]), 0.8, 1.25))
    return [
        shift(there[0] + [0, 0, rise] - here[0]) @ rotation_about(here[0], (pitch, 0, 0)) @ scaling(scale, here[0])
        for rise in (-6.0, 0.0, 6.0)
        for pitch in search.pitches
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
