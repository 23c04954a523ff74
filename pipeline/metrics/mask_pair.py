"""A predicted mask and its reference, with what several metrics start from, each computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pipeline.metrics.lesions import LesionCounts, LesionOptions, count_lesions
from pipeline.metrics.overlap import Mask, VoxelCounts, count_voxels
from pipeline.metrics.surface_distance import TOLERANCE, SurfaceDistances, surface_distances


@dataclass(frozen=True)
class MaskPair:
    """One label of one case.

    Attributes:
        prediction: boolean `[X, Y, Z]`.
        reference: boolean `[X, Y, Z]`.
        spacing: mm between voxel centres along each axis.
        tolerance: of the surface Dice, in mm.
        lesion_options: what a lesion is; None where lesions are not asked for.
    """

    prediction: Mask
    reference: Mask
    spacing: tuple[float, float, float]
    tolerance: float = TOLERANCE
    lesion_options: LesionOptions | None = None

    @cached_property
    def counts(self) -> VoxelCounts:
        """Voxels by agreement."""
        return count_voxels(self.prediction, self.reference)

    @cached_property
    def distances(self) -> SurfaceDistances:
        """Between the surfaces."""
        return surface_distances(self.prediction, self.reference, self.spacing)

    @cached_property
    def lesions(self) -> LesionCounts | None:
        """Lesions and those found; None where they are not asked for."""
        if self.lesion_options is None:
            return None
        return count_lesions(self.prediction, self.reference, self.spacing, self.lesion_options)
