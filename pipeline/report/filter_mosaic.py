"""3×3×3 filters as pictures: three orthogonal slices through the centre of each, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from pipeline.report.figure_style import WIDTH

COLOURS = "RdBu_r"
"""Diverging and safe for the colour-blind: red above zero, white at zero, blue below."""
PLANES = ("XY", "XZ", "YZ")
"""The slices, in the order of `orthogonal_slices`; the first letter runs to the right, the second upwards."""

_VOXEL = 4
_SLICE = 3 * _VOXEL
_NARROW, _WIDE, _VERY_WIDE = 1, 4, 9
# Inches: right of a mosaic, above it for title or names, below all for the colour bar.
_EDGE, _ABOVE, _BAR = 0.05, 0.29, 0.64


def orthogonal_slices(filters: ArrayLike) -> NDArray[np.float64]:
    """Cuts filters through their central voxel.

    Args:
        filters: `[F, 27]`, kernels `[X, Y, Z]` in C order.

    Returns:
        `[F, 3, 3, 3]`: planes as in `PLANES`, rows from the top, columns from the left.
    """
    kernels = np.asarray(filters, dtype=np.float64).reshape(-1, 3, 3, 3)
    planes = np.stack([kernels[:, :, :, 1], kernels[:, :, 1, :], kernels[:, 1, :, :]], axis=1)
    return planes.transpose(0, 1, 3, 2)[:, :, ::-1]


@dataclass(frozen=True)
class Mosaic:
    """Filters laid out in one picture.

    Attributes:
        pixels: weights, NaN in the gaps.
        columns: centres of the filters from left to right, in pixels.
        rows: centres of the slices (or of the rows of filters) from the top, in pixels.
    """

    pixels: NDArray[np.float64]
    columns: NDArray[np.float64]
    rows: NDArray[np.float64]


def column_mosaic(filters: ArrayLike) -> Mosaic:
    """Lays filters `[F, 27]` side by side, the slices of each below one another."""
    slices = _enlarged(orthogonal_slices(filters))
    pixels = _joined([_joined(list(planes), 0, _NARROW) for planes in slices], 1, _WIDE)
    return Mosaic(pixels, _centres(len(slices), _SLICE, _WIDE), _centres(3, _SLICE, _NARROW))


def row_mosaic(filters: ArrayLike) -> Mosaic:
    """Lays filters `[R, C, 27]` out in rows and columns, the slices of each side by side."""
    grid = np.asarray(filters, dtype=np.float64)
    slices = _enlarged(orthogonal_slices(grid)).reshape(*grid.shape[:2], 3, _SLICE, _SLICE)
    rows = [_joined([_joined(list(planes), 1, _NARROW) for planes in row], 1, _VERY_WIDE) for row in slices]
    width = 3 * _SLICE + 2 * _NARROW
    return Mosaic(
        _joined(rows, 0, _WIDE), _centres(grid.shape[1], width, _VERY_WIDE), _centres(len(grid), _SLICE, _WIDE)
    )


def _enlarged(slices: NDArray[np.float64]) -> NDArray[np.float64]:
    return slices.repeat(_VOXEL, axis=-1).repeat(_VOXEL, axis=-2)


def _joined(tiles: Sequence[NDArray[np.float64]], axis: int, gap: int) -> NDArray[np.float64]:
    shape = list(tiles[0].shape)
    shape[axis] = gap
    blank = np.full(shape, np.nan)
    parts = [part for tile in tiles for part in (tile, blank)][:-1]
    return np.concatenate(parts, axis=axis)


def _centres(count: int, size: int, gap: int) -> NDArray[np.float64]:
    return np.arange(count, dtype=np.float64) * (size + gap) + (size - 1) / 2


def colour_limit(*filters: ArrayLike) -> float:
    """Returns the one limit of the colour scale of several pictures: the largest weight in size but one in a hundred.

    A single outlier would make all others pale; the colours of what lies beyond are cut off.
    """
    sizes = np.concatenate([np.abs(np.asarray(f, dtype=np.float64)).ravel() for f in filters])
    return max(float(np.quantile(sizes, 0.99)), 1e-12)


@dataclass(frozen=True)
class MosaicPanel:
    """A mosaic with what is written beside it.

    Attributes:
        mosaic: the picture.
        title: above it, on the left.
        columns: names above its columns; none where empty.
        rows: names on the left of its rows.
    """

    mosaic: Mosaic
    title: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[str] = PLANES


def mosaic_figure(panels: Sequence[MosaicPanel], limit: float, margin: float = 0.35) -> Figure:
    """Draws mosaics below one another on one colour scale from −limit to limit, without smoothing.

    Sizes follow from the pixels, so no layout has to be solved for: a report has dozens of these figures.

    Args:
        panels: from the top.
        limit: of the colour scale; weights beyond it have its last colour.
        margin: inches on the left, for the names of rows.
    """
    width = WIDTH - margin - _EDGE
    heights = [width * panel.mosaic.pixels.shape[0] / panel.mosaic.pixels.shape[1] for panel in panels]
    total = sum(heights) + _ABOVE * len(panels) + _BAR
    figure = Figure(figsize=(WIDTH, total))
    top = total
    for panel, height in zip(panels, heights, strict=True):
        top -= _ABOVE + height
        axes = figure.add_axes((margin / WIDTH, top / total, width / WIDTH, height / total))
        image = _show(axes, panel, limit)
    bar = figure.add_axes((margin / WIDTH, (_BAR - 0.2) / total, width / WIDTH, 0.09 / total))
    figure.colorbar(image, cax=bar, orientation="horizontal", extend="both").set_label("weight", fontsize=9, labelpad=2)
    # Five numbers at most, or those of small weights would run into each other.
    bar.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    bar.tick_params(labelsize=8)
    bar.grid(False)
    return figure


def _show(axes: Axes, panel: MosaicPanel, limit: float) -> AxesImage:
    image = axes.imshow(
        panel.mosaic.pixels, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest", aspect="auto"
    )
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.xaxis.tick_top()
    axes.set_xticks(panel.mosaic.columns if panel.columns else [], panel.columns or None)
    axes.set_yticks(panel.mosaic.rows, panel.rows)
    axes.tick_params(length=0, labelsize=8)
    if panel.title:
        axes.set_title(panel.title, pad=4)
    return image
