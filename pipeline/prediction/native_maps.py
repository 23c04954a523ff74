"""Carrying maps from the preprocessed grid to the grid of the raw scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data.volume import Volume
from preprocessing.chain import Chain
from preprocessing.step import Interpolation, Record


@dataclass(frozen=True)
class NativeMaps:
    """Carries maps from the preprocessed grid, given by its affine, to that of the raw scan."""

    chain: Chain
    records: Sequence[Record]
    affine: NDArray[np.float64]

    def __call__(self, values: torch.Tensor) -> Volume:
        """Carries `[X, Y, Z]`, interpolated linearly; 0 outside the preprocessed grid."""
        array = values.cpu().numpy().astype(np.float32, copy=False)
        return self.chain.invert(Volume(array, self.affine), self.records, Interpolation.LINEAR)
