"""Lesion-wise detection by connected components.

Sensitivity and precision count lesions, not voxels, so that a small lesion weighs as much as a large one; F1 is their
harmonic mean, as in the MSSEG challenge (Commowick et al., Scientific Reports 8, 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.options import Options
from pipeline.metrics.components import Connectivity, component_voxels, components, large_enough
from pipeline.metrics.overlap import EmptyMask, Mask, which_empty


class LesionOptions(Options):
    """What a lesion is, and when it counts as found."""

    connectivity: Connectivity = Connectivity.CORNERS
    """Which neighbouring voxels belong to one lesion."""
    overlap: float = Field(default=0.0, ge=0, le=1)
    """Share of a lesion's voxels that the other mask has to cover; 0: one voxel is enough."""
    minimum_volume: float = Field(default=0.0, ge=0)
    """Volume in mm³ below which a connected component does not count as a lesion, in reference and prediction."""


_AS_DEFINED = LesionOptions()


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one label of one case.

    Attributes:
        reference: lesions of the reference.
        detected: those of them that the prediction covers.
        predicted: lesions of the prediction.
        true: those of them that lie on the reference.
    """

    reference: int
    detected: int
    predicted: int
    true: int

    @property
    def empty(self) -> EmptyMask:
        """Which of the two masks holds no lesion."""
        return which_empty(self.reference, self.predicted)


def count_lesions(
    prediction: Mask,
    reference: Mask,
    spacing: Sequence[float],
    options: LesionOptions = _AS_DEFINED,
) -> LesionCounts:
    """Counts lesions and those found.

    A component of the prediction below the minimum volume is no lesion: it neither detects nor counts as false. A
    component of the reference below it is not asked for: it does not count as missed, and what was predicted on it
    alone counts neither as true nor as false.

    Args:
        prediction: boolean `[X, Y, Z]`.
        reference: boolean `[X, Y, Z]`.
        spacing: mm between voxel centres along each axis.
        options: what a lesion is, and when it counts as found.

    Returns:
        The counts.
    """
    connectivity, overlap = options.connectivity, options.overlap
    voxel, least = float(np.prod(spacing)), options.minimum_volume
    truth, truth_kept = _lesions(reference, connectivity, voxel, least)
    found, found_kept = _lesions(prediction, connectivity, voxel, least)
    asked = truth_kept[truth]
    covering = found_kept[found]
    detected = truth_kept & _covered(truth, covering, overlap)
    true = found_kept & _covered(found, asked, overlap)
    # Predicted on a component that is too small to be asked for, and on nothing else of the reference.
    ignored = found_kept & ~true & _covered(found, reference & ~asked, 0.0) & ~_covered(found, asked, 0.0)
    return LesionCounts(int(truth_kept.sum()), int(detected.sum()), int((found_kept & ~ignored).sum()), int(true.sum()))


def _lesions(mask: Mask, connectivity: Connectivity, voxel: float, least: float) -> tuple[NDArray[np.int32], Mask]:
    """Numbered components, and for each number (0, the background, included) whether it is a lesion."""
    numbered = components(mask, connectivity)
    return numbered, np.concatenate([[False], large_enough(component_voxels(numbered), voxel, least)])


def _covered(numbered: NDArray[np.int32], other: Mask, overlap: float) -> Mask:
    """For each number whether the other mask covers enough of the component."""
    sizes = np.bincount(numbered.ravel())
    shared = np.bincount(numbered[other], minlength=len(sizes))
    return (shared > 0) & (shared >= overlap * sizes - 1e-9)


def lesion_sensitivity(counts: LesionCounts) -> float:
    """Returns detected lesions / lesions of the reference; without any, 1 if none was predicted, else 0."""
    return counts.detected / counts.reference if counts.reference else float(not counts.predicted)


def lesion_precision(counts: LesionCounts) -> float:
    """Returns true lesions / lesions of the prediction; without any, 1 if the reference has none either, else 0."""
    return counts.true / counts.predicted if counts.predicted else float(not counts.reference)


def lesion_f1(counts: LesionCounts) -> float:
    """Returns the harmonic mean of sensitivity and precision; 0 where both are 0."""
    sensitivity, precision = lesion_sensitivity(counts), lesion_precision(counts)
    total = sensitivity + precision
    return 2 * sensitivity * precision / total if total else 0.0
