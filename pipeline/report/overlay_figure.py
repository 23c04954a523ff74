"""Slices of a case with the contours of reference and prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pipeline.report.figure_style import PREDICTION, REFERENCE

Array = NDArray[Any]
PLANES = ("sagittal", "coronal", "axial")
_LETTERS = {"sagittal": ("P", "A"), "coronal": ("L", "R"), "axial": ("L", "R")}


@dataclass(frozen=True)
class Scene:
    """Maps of one case on one grid whose axes point right, anterior and superior.

    Attributes:
        image: `[X, Y, Z]` one channel; NaN outside the mask.
        reference: `[X, Y, Z]` integer, 0 is background.
        prediction: `[X, Y, Z]` integer, the same values as the reference.
        entropy: `[X, Y, Z]` predictive entropy as a share of its largest value.
        affine: 4×4, voxel indices to RAS+ mm.
    """

    image: Array
    reference: Array
    prediction: Array
    entropy: Array
    affine: NDArray[np.float64]

    @classmethod
    def oriented(
        cls, image: Array, reference: Array, prediction: Array, entropy: Array, affine: NDArray[np.float64]
    ) -> Scene:
        """Turns maps on any grid to the nearest RAS+ one, without interpolation."""
        orientation = nib.orientations.io_orientation(affine)
        turned = affine @ nib.orientations.inv_ornt_aff(orientation, image.shape)
        image, reference, prediction, entropy = (cls.turned(m, affine) for m in (image, reference, prediction, entropy))
        return cls(image, reference, prediction, entropy, turned)

    @staticmethod
    def turned(values: Array, affine: NDArray[np.float64]) -> Array:
        """Turns one map on the grid of an affine to the nearest RAS+ grid."""
        return np.asarray(nib.orientations.apply_orientation(values, nib.orientations.io_orientation(affine)))

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Mm along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def centre(self) -> NDArray[np.intp]:
        """The slice of each axis with the largest section of the reference (else the prediction, else the middle)."""
        for mask in (self.reference > 0, self.prediction > 0):
            if mask.any():
                return np.array([np.argmax(mask.sum(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)])
        return np.array(self.image.shape) // 2

    def window(self, margin: float) -> tuple[NDArray[np.float64], float]:
        """The cube to show: its middle in voxel indices and its side in mm, never larger than the image."""
        extent = (np.array(self.image.shape) * self.spacing).max()
        found = np.argwhere((self.reference > 0) | (self.prediction > 0))
        if not len(found):
            return (np.array(self.image.shape) - 1) / 2, float(extent)
        low, high = found.min(axis=0), found.max(axis=0)
        side = ((high - low + 1) * self.spacing).max() + 2 * margin
        if side >= extent:
            return (np.array(self.image.shape) - 1) / 2, float(extent)
        return (low + high) / 2, float(side)


def slice_figure(scene: Scene, plane: str, margin: float, *, entropy: bool = False, inches: float = 2.2) -> Figure:
    """Draws one slice with the contours of every label.

    Args:
        scene: the case.
        plane: one of `PLANES`.
        margin: mm of anatomy around the structure.
        entropy: show the entropy map instead of the image.
        inches: side of the square figure.

    Returns:
        The figure, without frame: the subject's left, or back, is on the left.
    """
    axis = PLANES.index(plane)
    across, up = (a for a in range(3) if a != axis)
    index = int(scene.centre()[axis])
    figure = Figure(figsize=(inches, inches), facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    whole = scene.entropy if entropy else scene.image
    shown = np.take(whole, index, axis=axis).astype(np.float32).T
    # Pixel edges in mm, the centre of voxel 0 at 0, so that anisotropic voxels keep their shape.
    (width, height), (dx, dy) = (whole.shape[across], whole.shape[up]), scene.spacing[[across, up]]
    extent = (-dx / 2, (width - 0.5) * dx, -dy / 2, (height - 0.5) * dy)
    low, high = (0.0, 1.0) if entropy else grey_window(scene.image)
    axes.imshow(
        shown, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent,
        interpolation="nearest" if max(dx, dy) > 1.5 else "bilinear",
    )  # fmt: skip
    x, y = np.arange(width) * dx, np.arange(height) * dy
    _contours(axes, np.take(scene.reference, index, axis=axis).T, x, y, REFERENCE, 2.0)
    _contours(axes, np.take(scene.prediction, index, axis=axis).T, x, y, PREDICTION, 1.3)
    middle, side = scene.window(margin)
    cx, cy = middle[across] * dx, middle[up] * dy
    axes.set_xlim(cx - side / 2, cx + side / 2)
    axes.set_ylim(cy - side / 2, cy + side / 2)
    axes.set_aspect("equal")
    _annotate(axes, plane, side)
    return figure


def grey_window(image: Array) -> tuple[float, float]:
    """The values that are drawn black and white: percentiles 1 and 99.7 inside the mask."""
    if not np.isfinite(image).any():
        return 0.0, 1.0
    # The background outside the mask is NaN: it is drawn black and has no say in the window.
    low, high = np.nanpercentile(image.astype(np.float32), [1.0, 99.7])
    return float(low), float(max(high, low + 1e-6))


def _contours(axes: Axes, mask: Array, x: Array, y: Array, colour: str, width: float) -> None:
    for label in np.unique(mask[mask > 0]):
        axes.contour(x, y, (mask == label).astype(np.float32), levels=[0.5], colors=[colour], linewidths=width)


def _annotate(axes: Axes, plane: str, side: float) -> None:
    left, right = _LETTERS[plane]
    # White on white matter would vanish.
    outline = withStroke(linewidth=2.5, foreground="black")
    for place, letter, align in ((0.03, left, "left"), (0.97, right, "right")):
        axes.text(
            place,
            0.5,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=12,
            ha=align,
            va="center",
            path_effects=[outline],
        )
    length = next((mm for mm in (50, 20, 10, 5, 2) if mm <= side / 3), 1)
    axes.plot(
        [0.05, 0.05 + length / side],
        [0.05, 0.05],
        transform=axes.transAxes,
        color="white",
        linewidth=2,
        path_effects=[outline],
    )
    axes.text(
        0.05,
        0.075,
        f"{length} mm",
        transform=axes.transAxes,
        color="white",
        fontsize=10,
        va="bottom",
        path_effects=[outline],
    )
