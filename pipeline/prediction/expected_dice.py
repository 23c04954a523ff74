"""The expected Dice of a prediction, without a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.heads import Heads
from pipeline.prediction.boundary_band import possible_voxels
from pipeline.prediction.most_probable import single_codes
from pipeline.prediction.slabs import slabs


def expected_dice(probability: NDArray[np.floating], mask: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """Expected Dice of a mask if every voxel were foreground with the predicted probability.

    2 Σ_{v in mask} p_v / (|mask| + Σ_v p_v): the ratio of the expectations of numerator and denominator of the Dice,
    close to its expectation for structures of many voxels (Borges et al. 2024, Soft Dice Confidence,
    arXiv 2402.10665). The second sum is over the voxels in the mask and within `BAND` of it (`possible_voxels`).

    Args:
        probability: `[X, Y, Z]` mean probability of one class.
        mask: `[X, Y, Z]` bool, where that class is predicted.
        spacing: mm between voxel centres along each axis.

    Returns:
        0 … 1; NaN for an empty mask.
    """
    size = int(np.count_nonzero(mask))
    if size == 0:
        return math.nan
    inside = float(probability[mask].sum(dtype=np.float64))
    return 2 * inside / (size + float(probability[possible_voxels(mask, spacing)].sum(dtype=np.float64)))


class DrawMasks:
    """Sizes and agreement of the masks of draws, from counts of votes, in the memory of one draw.

    The agreement is the mean Dice over pairs of draws (Roy et al. 2019, Bayesian QuickNAT, NeuroImage 195, 11–22), each
    pair weighted by its size: Σ_{s<t} 2 |M_s ∩ M_t| / Σ_{s<t} (|M_s| + |M_t|). With n_v of S draws voting for voxel v
    this is Σ_v n_v (n_v − 1) / ((S − 1) Σ_v n_v).
    """

    def __init__(self, heads: Heads = Heads.EXCLUSIVE) -> None:
        self._heads = heads
        self._sizes: list[list[int]] = []
        self._votes: torch.Tensor | None = None

    def add(self, probability: torch.Tensor) -> None:
        """Adds one draw's probabilities `[C, X, Y, Z]`; its masks are those without thresholds."""
        classes = len(self._heads.foreground(probability))
        if self._votes is None:
            self._votes = torch.zeros((classes, *probability.shape[1:]), dtype=torch.int16, device=probability.device)
        sizes = torch.zeros(classes, dtype=torch.int64, device=probability.device)
        for slab in slabs(probability.shape[1:]):
            chosen = single_codes(probability[:, slab], self._heads)
            for k in range(classes):
                mask = self._heads.belongs(chosen, k + 1)
                self._votes[k, slab] += mask
                sizes[k] += torch.count_nonzero(mask)
        self._sizes.append(sizes.tolist())

    @property
    def count(self) -> int:
        """Number of draws so far."""
        return len(self._sizes)

    def voxels(self, k: int) -> list[int]:
        """Size of each draw's mask of foreground class k (from 1), in voxels."""
        return [sizes[k - 1] for sizes in self._sizes]

    def agreement(self, k: int) -> float:
        """Agreement on foreground class k (from 1), 0 … 1; NaN for fewer than two draws or if none found it."""
        if self._votes is None or self.count < 2 or not any(self.voxels(k)):
            return math.nan
        counts = torch.zeros(self.count + 1, dtype=torch.int64, device=self._votes.device)
        for slab in slabs(self._votes.shape[1:]):
            counts += torch.bincount(self._votes[k - 1, slab].flatten().to(torch.int64), minlength=len(counts))
        n = torch.arange(len(counts), dtype=torch.int64, device=counts.device)
        return int((counts * n * (n - 1)).sum()) / ((self.count - 1) * int((counts * n).sum()))
