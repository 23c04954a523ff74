"""Maps on the preprocessed grid, carried to the grid of the raw scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from data.volume import Volume
from preprocessing.chain import Chain
from preprocessing.step import Interpolation, Record


class NativeMaps:
    """Carries maps from the preprocessed grid to that of the raw scan.

    Args:
        chain: the steps.
        records: of the case.
        affine: `[4, 4]` of the preprocessed grid.
    """

    def __init__(self, chain: Chain, records: Sequence[Record], affine: NDArray[np.float64]) -> None:
        self._chain = chain
        self._records = records
        self._affine = affine

    def __call__(self, values: torch.Tensor) -> Volume:
        """Carries `[X, Y, Z]`, interpolated linearly; 0 where the preprocessed grid does not reach."""
        array = values.cpu().numpy().astype(np.float32, copy=False)
        return self._chain.invert(Volume(array, self._affine), self._records, Interpolation.LINEAR)
