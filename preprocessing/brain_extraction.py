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
from scipy import ndimage

from data.volume import Volume
from preprocessing.alignment import register_brain
from preprocessing.brain_network import brain_logits, load_network, mask_from_logits
from preprocessing.content import largest_component, overlap
from preprocessing.grid import background_value, resample
from preprocessing.head_search import ITERATIONS, find_head
from preprocessing.registration import Degrees, Registration
from preprocessing.step import Interpolation
from preprocessing.template import load_template

_FAR = 20.0
"""Distance in mm beyond which the template's surface carries no information. A mm inside it counts as a logit of 1."""
_LARGEST_LOGIT = 5.0
"""The network's log-odds are clipped to ± this, so that the template can outvote it."""
_GOOD_AGREEMENT = 0.9
"""Dice of the two masks below which the brain is registered again, with the scalp removed."""
_LEAST_AGREEMENT = 0.85
"""Dice of the two masks below which the case is suspect, and the network's mask is used alone."""


class SkullStripMethod(StrEnum):
    """How the brain is found."""

    COMBINED = "combined"
    """The brain network's rough mask, the template registered from there, and the sum of both opinions."""
    NETWORK = "network"
    """The brain network alone: fastest, with a coarser outline."""
    TEMPLATE = "template"
    """The template registered from the top of the head alone: no network, less robust."""
    CONTENT = "content"
    """The scan holds only the brain already: what differs from the background."""
    HD_BET = "hd_bet"
    """The `hd-bet` program, if it is installed, with the weights that it finds or that `weights` names."""
    SYNTHSTRIP = "synthstrip"
    """The `mri_synthstrip` program, if it is installed, with the weights that `weights` names."""


def extract_brain(volume: Volume, method: SkullStripMethod, rim: float) -> tuple[Volume, dict[str, Any]]:
    """Finds the brain in a raw head by `combined`, `network` or `template`.

    Args:
        volume: a raw head of any contrast.
        method: one of the three.
        rim: log-odds added to the combined opinion.

    Returns:
        The mask `[X, Y, Z]` uint8 on the scan's grid, and facts for the record: `metric` (mutual information in
        nats), `starts`, `matrix` (template's world to scan's) and `agreement` (Dice of the two opinions).
    """
    if method is SkullStripMethod.TEMPLATE:
        found, followed = find_head(volume)
        surface = _warped_surface(found.matrix, volume)
        facts = {"metric": found.metric, "starts": followed, "matrix": found.matrix.tolist()}
        return volume.with_array((surface.array > 0).astype(np.uint8)), facts
    logits = brain_logits(volume, load_network())
    rough = logits.with_array(largest_component(ndimage.binary_opening(logits.array > 0)))
    if method is SkullStripMethod.NETWORK or not rough.array.any():
        return mask_from_logits(logits, volume), {}
    found, followed = find_head(volume, rough)
    surface = _warped_surface(found.matrix, logits)
    agreement = overlap(surface.array > 0, rough.array)
    if agreement < _GOOD_AGREEMENT:
        # Scalp or neck misled the head model: register the brain that the network sees instead.
        second = _register_rough(volume, rough)
        again = _warped_surface(second.matrix, logits)
        if (better := overlap(again.array > 0, rough.array)) > agreement:
            found, surface, agreement = second, again, better
    facts = {"metric": found.metric, "starts": followed, "matrix": found.matrix.tolist(), "agreement": agreement}
    joined = logits.with_array(np.clip(logits.array, -_LARGEST_LOGIT, _LARGEST_LOGIT) + surface.array + np.float32(rim))
    if agreement < _LEAST_AGREEMENT:
        facts["suspect"] = [f"the network and the template disagree about the brain (Dice {agreement:.2f})"]
        joined = logits
    return mask_from_logits(joined, volume), facts


def _register_rough(volume: Volume, rough: Volume) -> Registration:
    coarse = resample(volume, rough.shape, rough.affine, Interpolation.LINEAR, fill=background_value(volume))
    return register_brain(coarse, rough.array > 0, Degrees.AFFINE, (8.0, 4.0), ITERATIONS)[0]


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
