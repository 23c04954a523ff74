"""Figures of calibration: reliability curves, and uncertainty against error of the test patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.evaluation.calibration_tables import ReliabilityRow
from pipeline.evaluation.statistics import Interval
from pipeline.report.figure_style import INK, MUTED, ArmStyle, legend_below, line_widths, new_figure, wrapped

_SMALLEST_SHARE = 1e-4
"""Bins with a smaller share of the voxels are not drawn: their frequency is noise."""


def reliability_points(rows: Sequence[ReliabilityRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joins the bins of repeats and labels, by their share of the voxels.

    Args:
        rows: of one arm and size.

    Returns:
        Mean p(foreground) and frequency of foreground `[bins]`, in order.
    """
    predicted, observed = [], []
    for low in sorted({r.low for r in rows}):
        bin_rows = [r for r in rows if r.low == low]
        weights = np.array([r.share for r in bin_rows])
        if weights.sum() / len({(r.repeat, r.label) for r in rows}) >= _SMALLEST_SHARE:
            predicted.append(float(np.average([r.probability for r in bin_rows], weights=weights)))
            observed.append(float(np.average([r.frequency for r in bin_rows], weights=weights)))
    return np.array(predicted), np.array(observed)


def _leave_room_above(figure: Figure) -> None:
    """Keeps the title from touching the edge, where a legend outside the axes pushes them up."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(h_pad=0.1)


def reliability_plot(curves: Mapping[str, Sequence[ReliabilityRow]], styles: Mapping[str, ArmStyle], n: int) -> Figure:
    """Draws how often voxels were foreground against how probable they were called.

    Args:
        curves: arm → its bins at this size.
        styles: arm → how it is drawn.
        n: the size.

    Returns:
        The figure; on the diagonal probabilities are honest, flatter than it they are too extreme.
    """
    figure = new_figure(height=4.8)
    _leave_room_above(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for (arm, rows), width in zip(curves.items(), line_widths(len(curves)), strict=True):
        predicted, observed = reliability_points(rows)
        style = styles[arm]
        axes.plot(
            predicted, observed, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=4.5,
            linewidth=width, label=arm,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_title(f"n = {n}")
    axes.set_xlabel("predicted p(foreground)")
    axes.set_ylabel("frequency of foreground")
    legend_below(figure, axes)
    return figure


def review_plot(
    points: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    styles: Mapping[str, ArmStyle],
    n: int,
    measure: str,
) -> Figure:
    """Draws each test patient's error against the uncertainty of the prediction.

    Args:
        points: arm → uncertainty `[P]` and 1 − Dice `[P]`, means over repeats; NaN is left out.
        styles: arm → how it is drawn.
        n: the size.
        measure: what the uncertainty is, with its unit.

    Returns:
        The figure; points that rise to the right mean that uncertainty finds the cases to review.
    """
    figure = new_figure(height=4.0)
    _leave_room_above(figure)
    axes = figure.add_subplot()
    for arm, (uncertainty, error) in points.items():
        style = styles[arm]
        axes.scatter(
            uncertainty, error, s=24, marker=style.marker, color=style.colour, alpha=0.75, linewidths=0, label=arm
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    # Small values have long numbers, which would run into each other.
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(f"n = {n}")
    axes.set_xlabel(measure)
    axes.set_ylabel("error (1 − Dice)")
    legend_below(figure, axes)
    return figure


def coverage_plot(
    coverages: Mapping[str, Mapping[int, Interval]], styles: Mapping[str, ArmStyle], level: float
) -> Figure:
    """Draws the coverage of the volume intervals with its binomial interval, grouped by size.

    Args:
        coverages: arm → size → coverage.
        styles: arm → how it is drawn.
        level: coverage that was asked for.

    Returns:
        The figure; an interval that holds the dashed line is honest as far as the test patients can tell.
    """
    sizes = sorted({n for by_size in coverages.values() for n in by_size})
    rows = [(n, arm) for n in sizes for arm in coverages if n in coverages[arm]]
    figure = new_figure(height=1.0 + 0.25 * len(rows) + 0.4 * len(sizes))
    axes = figure.add_subplot()
    y, ticks, names = 0.0, [], []
    for n in sizes:
        y += 1.5
        axes.text(0, y, f"n = {n}", transform=axes.get_yaxis_transform(), weight="bold", fontsize=9, va="center")
        for arm in (a for size, a in rows if size == n):
            y += 1
            interval, style = coverages[arm][n], styles[arm]
            axes.plot([interval.low, interval.high], [y, y], color=style.colour, linewidth=2)
            axes.plot(interval.mean, y, marker=style.marker, color=style.colour, markersize=6.5)
            ticks.append(y)
            names.append(wrapped(arm))
    axes.axvline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(ticks, names)
    axes.set_ylim(y + 0.8, 0.7)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"coverage of the {100 * level:.0f} % volume interval,\nwith its 95 % interval")
    return figure
