"""Slices of a case with the contours of reference and prediction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from data.volume import Volume
from models.heads import IGNORED
from pipeline.report.figure_style import PREDICTION, REFERENCE
from preprocessing.content import foreground_mask
from preprocessing.quality_control import PLANES as PLANES

Array = NDArray[Any]
_LETTERS = {"sagittal": ("P", "A"), "coronal": ("L", "R"), "axial": ("L", "R")}
_LEAST_RANGE = 0.1
"""Of the drawn uncertainties; a narrower one would show noise."""
_NARROWEST = 0.01
"""Where the median itself is next to the largest value that there can be."""


@dataclass(frozen=True)
class Scene:
    """Maps of one case on one grid whose axes point right, anterior and superior.

    Attributes:
        image: `[X, Y, Z]` one channel; NaN outside the mask.
        reference: `[X, Y, Z]` codes of `Heads`: 0 is background, `IGNORED` not annotated.
        prediction: `[X, Y, Z]` codes, too; nothing is ignored.
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

    @cached_property
    def tissue(self) -> NDArray[np.bool_]:
        """`[X, Y, Z]`, where there is anatomy or a prediction: inside the mask, without one inside head or body."""
        seen = np.isfinite(self.image)
        if seen.all() and self.image.max() > self.image.min():
            seen = ndimage.binary_fill_holes(foreground_mask(Volume(self.image.astype(np.float32), self.affine)))
        return np.asarray(seen | (self.prediction > 0))

    @cached_property
    def entropy_window(self) -> tuple[float, float]:
        """The uncertainties that are drawn clear and full: the median of the tissue and nearly the largest.

        Calibrated probabilities are a little uncertain everywhere, which would lie over all the anatomy like fog.
        """
        inside = self.entropy[self.tissue].astype(np.float32)
        if not inside.size:
            return 0.0, 1.0
        low, high = (float(quantile) for quantile in np.quantile(inside, [0.5, 0.999]))
        high = min(max(high, low + _LEAST_RANGE), 1.0)
        return min(low, high - _NARROWEST), high

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """`[X, Y, Z]`, where nobody has annotated the case."""
        return np.asarray(self.reference == IGNORED)

    def centre(self) -> NDArray[np.intp]:
        """The slice of each axis with the largest section of the reference (else the prediction, else the middle)."""
        for mask in (self.reference > 0, self.prediction > 0):
            if mask.any():
                return np.array([np.argmax(mask.sum(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)])
        return np.array(self.image.shape) // 2

    def disagreement(self) -> NDArray[np.intp]:
        """The slice of each axis with the largest section on which the masks disagree; `centre` where they never do."""
        differ = (self.reference != self.prediction) & ~self.ignored
        if not differ.any():
            return self.centre()
        return np.array([np.argmax(differ.sum(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)])

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


def slice_figure(
    scene: Scene,
    plane: str,
    margin: float,
    *,
    entropy: bool = False,
    radiological: bool = False,
    through: NDArray[np.intp] | None = None,
    inches: float = 2.2,
) -> Figure:
    """Draws one slice with the contours of every label.

    Args:
        scene: the case.
        plane: one of `PLANES`.
        margin: mm of anatomy around the structure.
        entropy: show the entropy map instead of the image, with a bar of its scale.
        radiological: show the subject's left on the right, as radiologists do.
        through: number of the slice of each axis; by default that with the largest section of the reference.
        inches: side of the square figure.

    Returns:
        The figure, without frame; letters say which side is which.
    """
    figure, axes, across, up = _bare_axes(plane, inches)
    axis = PLANES.index(plane)
    index = int((scene.centre() if through is None else through)[axis])
    low, high = scene.entropy_window if entropy else grey_window(scene.image)
    whole = np.where(scene.tissue, scene.entropy, low) if entropy else scene.image
    x, y = _show(scene, axes, np.take(whole, index, axis=axis), (across, up), (low, high))
    unknown = np.take(scene.ignored, index, axis=axis).T
    if unknown.any():
        # Grey and hatched: what is predicted there is neither right nor wrong.
        hatched = axes.contourf(x, y, unknown.astype(np.float32), levels=[0.5, 1.5], colors=["#b0b0b080"])
        hatched.set(hatch="///", edgecolor="#e0e0e0")
    _contours(axes, np.take(scene.reference, index, axis=axis).T, x, y, REFERENCE, 2.0)
    _contours(axes, np.take(scene.prediction, index, axis=axis).T, x, y, PREDICTION, 1.3)
    middle, side = scene.window(margin)
    _frame(scene, axes, plane, middle, side, radiological=radiological)
    if entropy:
        _scale_bar(axes, low, high)
    return figure


def shadow_figure(scene: Scene, plane: str, *, radiological: bool = False, inches: float = 2.2) -> Figure:
    """Draws the slice of `slice_figure` in the whole field of view, with the outline of the mask of all slices.

    Args:
        scene: the case.
        plane: one of `PLANES`.
        radiological: the subject's left is on the right.
        inches: side of the square figure.

    Returns:
        The figure, without frame; what lies in other slices only is filled, too, so that single voxels are seen.
    """
    figure, axes, across, up = _bare_axes(plane, inches)
    axis = PLANES.index(plane)
    cut = np.take(scene.image, int(scene.centre()[axis]), axis=axis)
    x, y = _show(scene, axes, cut, (across, up), grey_window(scene.image))
    shadow = (scene.prediction > 0).any(axis=axis).T
    if shadow.any():
        axes.contourf(x, y, shadow.astype(np.float32), levels=[0.5, 1.5], colors=[PREDICTION], alpha=0.35)
        axes.contour(x, y, shadow.astype(np.float32), levels=[0.5], colors=[PREDICTION], linewidths=1.3)
    extent = float((np.array(scene.image.shape) * scene.spacing).max())
    _frame(scene, axes, plane, (np.array(scene.image.shape) - 1) / 2, extent, radiological=radiological)
    return figure


def _bare_axes(plane: str, inches: float) -> tuple[Figure, Axes, int, int]:
    """A black square, and the image axes that run to the right and upwards in it."""
    across, up = (a for a in range(3) if a != PLANES.index(plane))
    figure = Figure(figsize=(inches, inches), facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes, across, up


def _show(
    scene: Scene, axes: Axes, cut: Array, directions: tuple[int, int], window: tuple[float, float]
) -> tuple[Array, Array]:
    """Draws a slice in mm; returns the positions of its voxel centres along both directions."""
    (width, height), (dx, dy) = cut.shape, scene.spacing[list(directions)]
    # Pixel edges in mm, the centre of voxel 0 at 0, so that anisotropic voxels keep their shape.
    extent = (-dx / 2, (width - 0.5) * dx, -dy / 2, (height - 0.5) * dy)
    axes.imshow(
        cut.astype(np.float32).T, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", extent=extent,
        interpolation="nearest" if max(dx, dy) > 1.5 else "bilinear",
    )  # fmt: skip
    return np.arange(width) * dx, np.arange(height) * dy


def _frame(scene: Scene, axes: Axes, plane: str, middle: Array, side: float, *, radiological: bool) -> None:
    """Limits the view to a square of a side in mm about a point in voxel indices, with letters and a scale."""
    across, up = (a for a in range(3) if a != PLANES.index(plane))
    cx, cy = middle[across] * scene.spacing[across], middle[up] * scene.spacing[up]
    ends = (cx - side / 2, cx + side / 2)
    mirrored = radiological and plane != "sagittal"
    axes.set_xlim(ends[::-1] if mirrored else ends)
    axes.set_ylim(cy - side / 2, cy + side / 2)
    axes.set_aspect("equal")
    left, right = _LETTERS[plane]
    _annotate(axes, (right, left) if mirrored else (left, right), side)


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


def _scale_bar(axes: Axes, low: float, high: float) -> None:
    """Draws what black and white of the uncertainty mean, in per cent of its largest value."""
    bar = axes.inset_axes((0.60, 0.055, 0.35, 0.03))
    bar.imshow(np.linspace(0, 1, 64)[None], cmap="gray", aspect="auto")
    bar.set_xticks([])
    bar.set_yticks([])
    bar.grid(False)
    bar.spines[:].set_visible(True)
    bar.spines[:].set_color("white")
    outline = withStroke(linewidth=2.5, foreground="black")
    for place, value, align in ((0.60, low, "left"), (0.95, high, "right")):
        axes.text(
            place, 0.095, f"{100 * value:.0f} %", transform=axes.transAxes, color="white", fontsize=8, ha=align,
            va="bottom", path_effects=[outline],
        )  # fmt: skip


def _annotate(axes: Axes, letters: tuple[str, str], side: float) -> None:
    left, right = letters
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
