"""Packs a case for the slice viewer of its page: a lossy picture of the image, exact label maps, coarse uncertainty.

The image is a sheet of its axial slices as WebP, an eighth of the size of lossless bytes; labels must stay exact and
are deflated bytes, which browsers inflate themselves (`DecompressionStream`).
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, gaussian_filter

from pipeline.report.overlay_figure import Scene, grey_window

_QUALITY = 70
"""Of the WebP; slices of brains differ by 2 % of the grey range from the original at this setting."""
ENTROPY_LEVELS = 15
"""Steps of the uncertainty; finer ones double the size of a page and cannot be told apart on it."""


@dataclass(frozen=True)
class ViewerGrid:
    """The grid on which a case is shown.

    Attributes:
        corner: `[3]` first voxel of the box that is cut out of the scene.
        size: `[3]` voxels of that box.
        shape: `[3]` voxels shown.
        factor: `[3]` voxels of the scene along each voxel shown, at least 1.
        affine: 4×4, voxels shown to RAS+ mm.
    """

    corner: NDArray[np.intp]
    size: NDArray[np.intp]
    shape: tuple[int, int, int]
    factor: NDArray[np.float64]
    affine: NDArray[np.float64]

    @classmethod
    def around(cls, scene: Scene, most_voxels: int) -> ViewerGrid:
        """Chooses the box that holds the image and the reference, and voxels so large that it fits.

        Args:
            scene: the case; its image is NaN outside the mask.
            most_voxels: voxels that may be shown.

        Returns:
            The grid; voxels finer than the common size are joined first, so that thick slices keep all they have.
        """
        found = np.argwhere(np.isfinite(scene.image) | (scene.reference > 0))
        shape = np.array(scene.image.shape)
        corner, end = (found.min(axis=0), found.max(axis=0) + 1) if len(found) else (np.zeros(3, np.intp), shape)
        size, spacing = end - corner, scene.spacing
        coarse = spacing.min()
        while math.prod(_voxels(size, spacing, coarse)) > most_voxels:
            coarse *= 1.02
        shown = np.array(_voxels(size, spacing, coarse))
        factor = size / shown
        scale = np.diag([*factor, 1.0])
        # Outer faces stay in place: the middle of the first voxel shown lies (factor − 1) / 2 inside.
        scale[:3, 3] = corner + (factor - 1) / 2
        return cls(corner, size, (int(shown[0]), int(shown[1]), int(shown[2])), factor, scene.affine @ scale)

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """Cuts the box out of a map of the scene."""
        (x, y, z), (a, b, c) = self.corner, self.size
        return values[x : x + a, y : y + b, z : z + c]

    def smooth(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Brings a map of real numbers to the grid, low-pass filtered where voxels are joined."""
        box = self.cut(values).astype(np.float32)
        if tuple(self.shape) == box.shape:
            return box
        box = gaussian_filter(box, 0.42 * np.sqrt(np.maximum(self.factor**2 - 1, 0)))
        return self._sampled(box, order=1)

    def labels(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Brings a label map to the grid, nearest neighbour."""
        box = self.cut(values)
        return box if tuple(self.shape) == box.shape else self._sampled(box, order=0)

    def _sampled(self, box: NDArray[Any], order: Literal[0, 1]) -> NDArray[Any]:
        offset = (self.factor - 1) / 2
        return affine_transform(box, self.factor, offset, output_shape=self.shape, order=order, mode="nearest")


def _voxels(size: NDArray[np.intp], spacing: NDArray[np.float64], coarse: float) -> tuple[int, ...]:
    return tuple(max(1, round(n * min(1.0, float(mm / coarse)))) for n, mm in zip(size, spacing, strict=True))


def image_sheet(scene: Scene, grid: ViewerGrid) -> dict[str, Any]:
    """Draws all axial slices side by side: anterior up, right on the right, inferior slice first.

    Returns:
        `uri` of the WebP and `columns` of the sheet.
    """
    low, high = grey_window(scene.image)
    grey = grid.smooth(np.nan_to_num(np.clip((scene.image - low) / (high - low), 0, 1), nan=0.0))
    columns = math.ceil(math.sqrt(grid.shape[2] * grid.shape[1] / grid.shape[0]))
    rows = math.ceil(grid.shape[2] / columns)
    sheet = np.zeros((rows * grid.shape[1], columns * grid.shape[0]), np.uint8)
    for z in range(grid.shape[2]):
        row, column = divmod(z, columns)
        tile = np.rint(255 * grey[:, ::-1, z].T).astype(np.uint8)
        sheet[row * grid.shape[1] :, column * grid.shape[0] :][: grid.shape[1], : grid.shape[0]] = tile
    stream = io.BytesIO()
    Image.fromarray(sheet).save(stream, "WEBP", quality=_QUALITY, method=4)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return {"uri": f"data:image/webp;base64,{data}", "columns": columns}


def packed(values: NDArray[np.uint8]) -> str:
    """Deflates `[X, Y, Z]` bytes, x fastest, for the page."""
    return base64.b64encode(zlib.compress(values.tobytes(order="F"), 9)).decode("ascii")


def packed_entropy(scene: Scene, grid: ViewerGrid) -> str:
    """Deflates the uncertainty in `ENTROPY_LEVELS` steps."""
    shown = np.where(scene.tissue, scene.entropy, 0)
    levels = np.rint(ENTROPY_LEVELS * np.clip(grid.smooth(shown), 0, 1))
    return packed(levels.astype(np.uint8))


def structure_box(scene: Scene, grid: ViewerGrid, margin: float) -> list[list[float]]:
    """The cube around the structure, for the viewer's close-up, as `[first, last]` edge in voxels shown by axis."""
    # Every arm has its own false positives: the reference alone makes a close-up that suits all of them.
    alone = replace(scene, prediction=scene.reference) if scene.reference.any() else scene
    middle, side = alone.window(margin)
    box = []
    for axis in range(3):
        half = side / scene.spacing[axis] / 2
        edges = (np.array([middle[axis] - half, middle[axis] + half]) + 0.5 - grid.corner[axis]) / grid.factor[axis]
        low, high = np.clip(edges, 0, grid.shape[axis])
        box.append([float(low), float(high)] if high - low >= 2 else [0.0, float(grid.shape[axis])])
    return box


def start_voxel(scene: Scene, grid: ViewerGrid) -> list[int]:
    """The voxel that the viewer shows first: the largest sections of the reference."""
    at = (scene.centre() + 0.5 - grid.corner) / grid.factor
    return [int(np.clip(np.floor(v), 0, n - 1)) for v, n in zip(at, grid.shape, strict=True)]
