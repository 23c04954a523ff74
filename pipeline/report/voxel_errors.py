"""How the uncertainty of voxels relates to their errors: counts that add up over cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 1000
"""Of the relative entropy; voxels of one bin count as tied."""


@dataclass(frozen=True)
class VoxelErrors:
    """Voxels and wrong voxels by their relative entropy.

    Attributes:
        voxels: `[BINS]` number of voxels, entropy rising from 0 to 1.
        wrong: `[BINS]` of them, those whose predicted class is not that of the reference.
    """

    voxels: NDArray[np.int64]
    wrong: NDArray[np.int64]

    @classmethod
    def count(cls, entropy: NDArray[Any], wrong: NDArray[np.bool_], inside: NDArray[np.bool_]) -> VoxelErrors:
        """Counts the voxels inside a mask.

        Args:
            entropy: `[X, Y, Z]` in 0…1.
            wrong: `[X, Y, Z]` where the prediction errs.
            inside: `[X, Y, Z]` which voxels count.

        Returns:
            The counts.
        """
        place = np.clip((entropy[inside] * BINS).astype(np.int64), 0, BINS - 1)
        return cls(np.bincount(place, minlength=BINS), np.bincount(place[wrong[inside]], minlength=BINS))

    def __add__(self, other: VoxelErrors) -> VoxelErrors:
        return VoxelErrors(self.voxels + other.voxels, self.wrong + other.wrong)

    def area_under_curve(self) -> float:
        """Probability that a wrong voxel is more uncertain than a right one (AUROC, ties count half); NaN without."""
        right = self.voxels - self.wrong
        pairs = float(right.sum()) * float(self.wrong.sum())
        if not pairs:
            return float("nan")
        below = np.cumsum(right) - right
        return float(np.sum(self.wrong * (below + 0.5 * right)) / pairs)

    def found_in_most_uncertain(self, share: float) -> float:
        """Share of the wrong voxels among the given share of all voxels that are most uncertain; NaN without errors."""
        if not self.wrong.sum():
            return float("nan")
        voxels, wrong = (np.concatenate([[0], np.cumsum(c[::-1])]) for c in (self.voxels, self.wrong))
        return float(np.interp(share * voxels[-1], voxels, wrong) / wrong[-1])

    def found_curve(self, most: float, points: int = 200) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Share of the wrong voxels found against the share of voxels looked through, from 0 to `most`."""
        shares = np.linspace(0, most, points)
        return shares, np.array([self.found_in_most_uncertain(share) for share in shares])

    def rates(self, groups: int = 10) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Share of wrong voxels in equal ranges of entropy.

        Returns:
            Middle of each range, share of wrong voxels in it (NaN where it is empty), and its number of voxels.
        """
        voxels, wrong = (c.reshape(groups, -1).sum(axis=1) for c in (self.voxels, self.wrong))
        rate = np.divide(wrong, voxels, out=np.full(groups, np.nan), where=voxels > 0)
        return (np.arange(groups) + 0.5) / groups, rate, voxels
