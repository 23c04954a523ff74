"""The patch, and how the network reduces it: thick slices are not reduced until the voxels are nearly cubes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.networks.residual_unet import ResidualUNetOptions, Stride
from pipeline.planning.spacing import Spacing

WIDTHS = (16, 32, 64, 128)
_BLOCKS = (0, 2, 2, 5)
"""Of the published network; see `ResidualUNetOptions`."""
_LEAST_EDGE = 4
"""Voxels of the coarsest level along an axis that is reduced."""
_CONTEXT = 1.5
"""Sides of a patch, as a multiple of the box around a structure."""
_LEAST_SIDE = 32
"""Voxels of the finest axis that a patch shows, where a structure is smaller."""
_WHOLE = 64**3
"""Voxels of a scan that is taken as a whole."""
LARGEST = {"cpu": 64**3, "cuda": 96**3}
"""Voxels of a patch."""
_SMALL = 100_000
"""A patch of fewer voxels is drawn four times in a step, a larger one twice."""


@dataclass(frozen=True)
class PatchPlan:
    """Size of the patches and strides of the network.

    Attributes:
        size: voxels along each axis, multiples of what the network reduces to one.
        strides: of each level but the finest.
        whole: whether it shows a whole scan.
    """

    size: tuple[int, int, int]
    strides: tuple[Stride, ...]
    whole: bool

    @property
    def batch(self) -> int:
        """Patches in a step."""
        return 4 if math.prod(self.size) < _SMALL else 2

    @property
    def foreground_share(self) -> float:
        """Share of the patches that are centred on the structure; every whole scan shows it anyway."""
        return 0.0 if self.whole else 0.5

    def network(self, halvings: int = 0) -> ResidualUNetOptions:
        """The network, with channels halved so many times."""
        levels = len(self.strides) + 1
        return ResidualUNetOptions(
            channels=tuple(width // 2**halvings for width in WIDTHS[:levels]),
            encoder_blocks=_BLOCKS[:levels],
            strides=None if all(stride == (2, 2, 2) for stride in self.strides) else self.strides,
        )


def plan_patch(
    spacing: Spacing, extent: NDArray[np.float64], structure: NDArray[np.float64], largest: int
) -> PatchPlan:
    """Plans a patch that shows the whole scan if it is small, else the structure and what surrounds it.

    Args:
        spacing: mm of the planned grid.
        extent: `[3]` mm, the median field of view.
        structure: `[3]` mm, the box around the largest structure.
        largest: voxels of a patch.
    """
    grid = np.asarray(spacing)
    scan = np.maximum(1, np.rint(extent / grid)).astype(int)
    whole = bool(scan.prod() <= min(_WHOLE, largest))
    wanted = scan
    if not whole:
        shown = np.maximum(_CONTEXT * structure, _LEAST_SIDE * grid.min())
        wanted = np.minimum(scan, np.ceil(shown / grid).astype(int))
    while True:
        strides = plan_strides(spacing, wanted)
        factors = np.prod(strides, axis=0)
        size = np.ceil(wanted / factors).astype(int) * factors
        if whole or size.prod() <= largest:
            x, y, z = size.tolist()
            return PatchPlan((x, y, z), strides, whole)
        wanted = size.copy()
        wanted[wanted.argmax()] -= factors[wanted.argmax()]


def plan_strides(spacing: Spacing, size: NDArray[np.int_]) -> tuple[Stride, ...]:
    """Plans the strides of at most three reductions, as nnU-Net does.

    An axis is halved where its voxels are less than twice as long as the shortest and enough of them are left.

    Source: Isensee et al., nnU-Net, Nature Methods 18 (2021), supplement.

    Args:
        spacing: mm of the grid.
        size: `[3]` voxels of the patch.

    Returns:
        At least one stride.
    """
    now, left = np.array(spacing), np.array(size)
    strides: list[Stride] = []
    while len(strides) < len(WIDTHS) - 1:
        can = left >= 2 * _LEAST_EDGE
        if not can.any():
            break
        halved = can & (now < 2 * now[can].min())
        strides.append((_stride(halved[0]), _stride(halved[1]), _stride(halved[2])))
        now = np.where(halved, 2 * now, now)
        left = np.where(halved, -(-left // 2), left)
    return tuple(strides) or ((2, 2, 2),)


def _stride(halved: np.bool_) -> Literal[1, 2]:
    return 2 if halved else 1
