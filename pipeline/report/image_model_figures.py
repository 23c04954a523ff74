"""Figures of image models: slices of scans as they are, as the model was shown them, and as it makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.report.figure_style import WIDTH, wrapped
from pipeline.report.number_text import percent
from pipeline.report.overlay_figure import grey_window

Slices = NDArray[np.float32]

_GAP, _EDGE, _TITLES = 0.03, 0.05, 0.24
"""Inches: between slices, right of them, and above them for the names of columns."""
_WRITTEN, _LETTERS = 0.95, 13
"""Inches on the left for the names of rows, and letters that they hold; longer names are broken."""


def reconstruction_figure(original: Slices, shown: Slices, reconstructed: Slices, scans: Sequence[str]) -> Figure:
    """Draws slices `[S, X, Y]` of scans in rows: the scan, what the model was shown of it, and what it made of that."""
    given = [shown] if not np.array_equal(original, shown) else []
    columns = ["scan", *(["shown"] if given else []), "reconstructed"]
    return slice_grid(np.stack([original, *given, reconstructed], axis=1), columns, scans, original)


def latent_figure(traversal: Slices, explained: Sequence[float], grid: Sequence[float], original: Slices) -> Figure:
    """Draws walks `[A, P, X, Y]` along principal axes of the encodings, that of the largest variance first.

    Args:
        traversal: decoded slices.
        explained: share of the variance of the encodings along each axis.
        grid: distances from the mean of the encodings, in standard deviations.
        original: slices of scans, whose grey values are the scale.
    """
    rows = [f"axis {number + 1}\n{percent(share)}" for number, share in enumerate(explained)]
    columns = ["mean" if step == 0 else f"{step:+.3g} sd".replace("-", "−") for step in grid]
    return slice_grid(traversal, columns, rows, original)


def way_figure(interpolation: Slices, shares: Sequence[float], original: Slices) -> Figure:
    """Draws the way `[P, X, Y]` from the first scan to the second through the latent, the scans at its ends."""
    ends = original[:2] if len(original) > 1 else original[[0, 0]]
    row = np.concatenate([ends[:1], interpolation, ends[1:]])[None]
    columns = ["scan A", *(f"{100 * share:.0f} %" for share in shares), "scan B"]
    return slice_grid(row, columns, [""], original)


def slice_grid(slices: Slices, columns: Sequence[str], rows: Sequence[str], scale: Slices) -> Figure:
    """Draws slices `[R, C, X, Y]` in rows and columns, in the grey values of `scale`; right is the patient's right."""
    low, high = grey_window(scale)
    rows = [wrapped(name, _LETTERS) for name in rows]
    left = _WRITTEN if any(rows) else _EDGE
    width = (WIDTH - left - _EDGE - _GAP * (len(columns) - 1)) / len(columns)
    # A slice as wide as the figure would show its voxels and nothing more.
    width = min(width, 1.4)
    height = width * slices.shape[3] / slices.shape[2]
    figure_width = left + len(columns) * (width + _GAP) + _EDGE
    total = _TITLES + len(rows) * (height + _GAP) + _EDGE
    figure = Figure(figsize=(figure_width, total))
    for row, name in enumerate(rows):
        for column, title in enumerate(columns):
            x, y = left + column * (width + _GAP), total - _TITLES - (row + 1) * height - row * _GAP
            axes = figure.add_axes((x / figure_width, y / total, width / figure_width, height / total))
            axes.imshow(slices[row, column].T, cmap="gray", vmin=low, vmax=high, origin="lower", aspect="auto")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(title, fontsize=8, fontweight="normal", loc="center", pad=3)
        if name:
            middle = total - _TITLES - row * (height + _GAP) - height / 2
            figure.text((left - 0.06) / figure_width, middle / total, name, ha="right", va="center", fontsize=8)
    return figure
