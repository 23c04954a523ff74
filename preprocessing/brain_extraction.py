"""Brain extraction from a raw head of any contrast: two independent opinions, and how they are joined.

The network knows what the inside of a head looks like but little of its fine outline; the template, once it is
registered, knows the outline of an average brain but nothing of this one. The registration starts from the network's
rough mask, which a neck, a tilted head or missing slices do not mislead. The final mask is where the sum of both
log-odds, and of a constant that keeps a rim of fluid, is positive.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import Field
from scipy import ndimage

from data.options import Options
from data.volume import Volume
from preprocessing.alignment import AlignmentOptions, register_brain
from preprocessing.brain_network import brain_logits, load_network, mask_from_logits
from preprocessing.content import largest_component, overlap
from preprocessing.grid import background_value, resample
from preprocessing.head_search import HeadSearch, find_head
from preprocessing.registration import Registration
from preprocessing.step import Interpolation
from preprocessing.template import load_template

_FAR = 20.0
"""Distance in mm beyond which the template's surface says no more."""


class Opinion(StrEnum):
    """Whose opinion makes the mask."""

    NETWORK = "network"
    """The brain network alone."""
    TEMPLATE = "template"
    """The registered template alone, searched from the top of the head."""
    COMBINED = "combined"
    """The registered template, searched from the network's mask, and the network."""


class ExtractionOptions(Options):
    """How the brain is searched for."""

    iterations: int = Field(default=80, ge=1, description="Largest number of optimiser steps at each level.")
    bins: int = Field(default=32, ge=8, description="Histogram bins of the mutual information.")
    starts: int = Field(default=4, ge=1, description="How many starts of the registration are followed.")
    template_weight: float = Field(
        default=1.0, ge=0, description="Log-odds of brain per mm inside the template's surface, in the combined mask."
    )
    rim: float = Field(
        default=1.2,
        ge=0,
        description="Log-odds added to the combined opinion: about as many mm of fluid are kept around the brain. "
        "Published masks differ in where they draw the edge, and lost brain cannot be had back.",
    )
    largest_logit: float = Field(default=5.0, gt=0, description="The network's log-odds are clipped to ± this.")
    good_agreement: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Register again, with the scalp removed, where the two masks agree less (Dice).",
    )
    least_agreement: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="Suspect, and the network's mask alone, where they still agree less (Dice).",
    )
    threads: int = Field(default=1, ge=1, description="Threads of the network.")


def extract_brain(volume: Volume, options: ExtractionOptions, opinion: Opinion) -> tuple[Volume, dict[str, Any]]:
    """Finds the brain in a raw head.

    Returns:
        The mask `[X, Y, Z]` uint8 on the scan's grid, and facts for the record: `metric` (mutual information in
        nats), `starts`, `matrix` (template's world to scan's) and `agreement` (Dice of the two opinions).
    """
    search = HeadSearch(keep=options.starts, iterations=options.iterations, bins=options.bins)
    if opinion is Opinion.TEMPLATE:
        found, followed = find_head(volume, search)
        surface = _warped_surface(found.matrix, volume)
        facts = {"metric": found.metric, "starts": followed, "matrix": found.matrix.tolist()}
        return volume.with_array((surface.array > 0).astype(np.uint8)), facts
    logits = brain_logits(volume, load_network(), options.threads)
    rough = logits.with_array(largest_component(ndimage.binary_opening(logits.array > 0)))
    if opinion is Opinion.NETWORK or not rough.array.any():
        return mask_from_logits(logits, volume), {}
    found, followed = find_head(volume, search, rough)
    surface = _warped_surface(found.matrix, logits)
    agreement = overlap(surface.array > 0, rough.array)
    if agreement < options.good_agreement:
        # Scalp or neck misled the head model: register the brain that the network sees instead.
        second = _register_rough(volume, rough, options)
        again = _warped_surface(second.matrix, logits)
        if (better := overlap(again.array > 0, rough.array)) > agreement:
            found, surface, agreement = second, again, better
    facts = {"metric": found.metric, "starts": followed, "matrix": found.matrix.tolist(), "agreement": agreement}
    clipped = np.clip(logits.array, -options.largest_logit, options.largest_logit)
    joined = logits.with_array(clipped + np.float32(options.template_weight) * surface.array + np.float32(options.rim))
    if agreement < options.least_agreement:
        facts["suspect"] = [f"the network and the template disagree about the brain (Dice {agreement:.2f})"]
        joined = logits
    return mask_from_logits(joined, volume), facts


def _register_rough(volume: Volume, rough: Volume, options: ExtractionOptions) -> Registration:
    alignment = AlignmentOptions(spacings=(8.0, 4.0), iterations=options.iterations, bins=options.bins)
    coarse = resample(volume, rough.shape, rough.affine, Interpolation.LINEAR, fill=background_value(volume))
    return register_brain(coarse, rough.array > 0, alignment)[0]


@lru_cache(maxsize=1)
def _surface(spacing: float = 2.0) -> Volume:
    """Signed distance in mm to the template brain's surface, positive inside."""
    template = load_template(spacing)
    inside = ndimage.distance_transform_edt(template.mask, sampling=spacing)
    outside = ndimage.distance_transform_edt(~template.mask, sampling=spacing)
    # Between two voxel centres lies half a voxel of each distance.
    distance = np.where(template.mask, inside - spacing / 2, spacing / 2 - outside)
    return template.image.with_array(np.clip(distance, -_FAR, _FAR).astype(np.float32))


def _warped_surface(matrix: np.ndarray, grid: Volume) -> Volume:
    surface = _surface()
    placed = Volume(surface.array, matrix @ surface.affine)
    return resample(placed, grid.shape, grid.affine, Interpolation.LINEAR, fill=-_FAR, antialias=False)
