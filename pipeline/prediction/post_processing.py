"""What is kept of the connected components of a predicted structure.

A network that saw few scans finds crumbs of a structure far away from it. Where the structure is in one piece, only its
largest component is kept; where it may be in several, those that are large enough. A bundle contains a copy of this
file, so that its masks equal Graft's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from data.options import Options
from models.heads import Heads
from pipeline.metrics.components import Connectivity, component_voxels, components, large_enough
from pipeline.prediction.most_probable import predicted_classes


class Kept(StrEnum):
    """Which of the components that are large enough are kept."""

    ALL = "all"
    """Every one."""
    LARGEST = "largest"
    """The largest alone; of several of that size, the first."""


class ComponentRule(Options):
    """What is kept of a structure; every voxel of the rest becomes background."""

    keep: Kept = Kept.ALL
    """`largest`, the largest connected component alone, or `all`."""
    minimum_volume: float = Field(default=0.0, ge=0)
    """Volume in mm³ below which a component is removed."""
    connectivity: Connectivity = Connectivity.CORNERS
    """Which neighbouring voxels belong to one component."""

    @property
    def keeps_everything(self) -> bool:
        """Whether it changes no mask."""
        return self.keep is Kept.ALL and self.minimum_volume == 0

    def kept(self, voxels: NDArray[np.int64], voxel_volume: float) -> NDArray[np.bool_]:
        """Returns which components `[N]` are kept.

        Args:
            voxels: `[N]`, size of each.
            voxel_volume: of the grid, in mm³.
        """
        kept = large_enough(voxels, voxel_volume, self.minimum_volume)
        if self.keep is Kept.LARGEST and len(voxels):
            kept &= np.arange(len(voxels)) == np.argmax(voxels)
        return kept

    @property
    def words(self) -> str:
        """What is kept."""
        if self.keep is Kept.LARGEST:
            size = f", if it has at least {self.minimum_volume:g} mm³" if self.minimum_volume else ""
            return f"the largest connected component{size}"
        size = f"connected components of at least {self.minimum_volume:g} mm³"
        return size if self.minimum_volume else "every connected component"


def keep_components(
    mask: NDArray[np.integer],
    values: Sequence[int],
    rules: Sequence[ComponentRule],
    voxel_volume: float,
    heads: Heads = Heads.EXCLUSIVE,
) -> None:
    """Removes from a label map, in place, the components of each structure that its rule does not keep.

    Args:
        mask: `[X, Y, Z]`.
        values: value of each class in it; of overlapping structures powers of two that add up.
        rules: one for each class.
        voxel_volume: of the grid, in mm³.
        heads: whether the structures overlap.
    """
    if all(rule.keeps_everything for rule in rules):
        return
    boxes = dict(enumerate(ndimage.find_objects(mask), start=1)) if heads is Heads.EXCLUSIVE else {}
    for value, rule in zip(values, rules, strict=True):
        if rule.keeps_everything:
            continue
        box = boxes.get(value) if heads is Heads.EXCLUSIVE else (slice(None),) * 3
        if box is None:
            continue
        part = mask[box]
        numbered = components(heads.holds(part, value), rule.connectivity)
        removed = np.concatenate([[False], ~rule.kept(component_voxels(numbered), voxel_volume)])
        # Other structures that hold the voxel keep it.
        part[removed[numbered]] -= value


def mask_of(
    foreground: torch.Tensor,
    thresholds: Sequence[float] | None,
    rules: Sequence[ComponentRule],
    voxel_volume: float,
    heads: Heads = Heads.EXCLUSIVE,
) -> NDArray[np.integer]:
    """Returns the mask of probabilities on their own grid, `[X, Y, Z]` codes of `heads`.

    Args:
        foreground: `[K, X, Y, Z]`, probabilities of all classes but the background.
        thresholds: of each class; `None` for the most probable class.
        rules: one for each class.
        voxel_volume: of the grid, in mm³.
        heads: whether the structures overlap.
    """
    mask = predicted_classes(foreground.cpu(), thresholds, heads).numpy()
    codes = [heads.code(number) for number in range(1, len(foreground) + 1)]
    keep_components(mask, codes, rules, voxel_volume, heads)
    return mask
