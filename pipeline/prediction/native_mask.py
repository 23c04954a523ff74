"""The mask on the grid of the scan, made there from probability maps that were carried to it.

A bundle contains a copy of this file, so that its masks equal Graft's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from data.volume import Volume
from models.heads import Heads
from pipeline.prediction.post_processing import ComponentRule, keep_components


def native_mask(
    maps: Iterable[Volume],
    values: Sequence[int],
    thresholds: Sequence[float] | None = None,
    rules: Sequence[ComponentRule] = (),
    heads: Heads = Heads.EXCLUSIVE,
) -> Volume:
    """Returns the label map: the most probable class of each voxel or, with thresholds, the class above its own.

    The background has the remaining probability; of equally probable classes the first one wins, and the background
    before all others. If several classes are above their thresholds, the one with the largest factor wins.
    Components are removed last.

    Overlapping structures are where their probabilities exceed their thresholds, or one half; a voxel has the sum of
    the values of all that hold it.

    Args:
        maps: probability of each class but the background on one grid, taken one at a time: a scan may be much finer
            than the network's grid.
        values: value of each class in the mask; of overlapping structures different powers of two.
        thresholds: of each class, above 0 (`dice_thresholds`); `None` for the most probable class.
        rules: what is kept of the components of each class; everything without rules.
        heads: whether the structures overlap.

    Returns:
        uint8, or int16 if the values of overlapping structures add up to more than 255.
    """
    # In functions of their own, so that the maps are freed before the components are numbered.
    chosen = _chosen if heads is Heads.EXCLUSIVE else _sum_of_values
    mask = chosen(maps, values, thresholds)
    keep_components(mask.array, values, rules, mask.voxel_volume, heads)
    return mask


def _chosen(maps: Iterable[Volume], values: Sequence[int], thresholds: Sequence[float] | None) -> Volume:
    mask: Volume | None = None
    for volume, value, threshold in zip(maps, values, thresholds or [1.0] * len(values), strict=True):
        if mask is None:
            mask = volume.with_array(np.zeros(volume.shape, dtype=np.uint8))
            best, rest = np.zeros(volume.shape, np.float32), np.ones(volume.shape, np.float32)
        score = volume.array / np.float32(threshold)
        mask.array[score > best] = value
        np.maximum(best, score, out=best)
        rest -= volume.array
    if mask is None:
        raise ValueError("a mask needs a class")
    mask.array[best <= (rest if thresholds is None else 1)] = 0
    return mask


def _sum_of_values(maps: Iterable[Volume], values: Sequence[int], thresholds: Sequence[float] | None) -> Volume:
    mask: Volume | None = None
    for volume, value, threshold in zip(maps, values, thresholds or [0.5] * len(values), strict=True):
        if mask is None:
            mask = volume.with_array(np.zeros(volume.shape, np.uint8 if sum(values) < 256 else np.int16))
        mask.array[volume.array > np.float32(threshold)] += value
    if mask is None:
        raise ValueError("a mask needs a structure")
    return mask
