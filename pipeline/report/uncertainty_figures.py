"""Figures of uncertainty against error, by voxel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.report.figure_style import MUTED, ArmStyle, legend_below, line_widths, new_figure

_FEWEST_VOXELS = 50
"""Ranges of entropy with fewer voxels than this are not drawn: their rate is noise."""


def error_rates(
    rates: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]],
    styles: Mapping[str, ArmStyle],
) -> Figure:
    """Draws the share of wrong voxels against their entropy.

    Args:
        rates: arm → middle of the ranges, share of wrong voxels, number of voxels.
        styles: arm → how it is drawn.

    Returns:
        The figure; a line that rises means that uncertain voxels are wrong more often.
    """
    figure = new_figure(height=3.4)
    axes = figure.add_subplot()
    for (arm, (middle, rate, voxels)), width in zip(rates.items(), line_widths(len(rates)), strict=True):
        style, keep = styles[arm], voxels >= _FEWEST_VOXELS
        axes.plot(
            middle[keep], rate[keep], color=style.colour, linestyle=style.dash, marker=style.marker, markersize=6,
            linewidth=width, label=arm,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("predictive entropy of a voxel, share of its largest value")
    axes.set_ylabel("wrong voxels")
    legend_below(figure, axes)
    return figure


def errors_found(
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], styles: Mapping[str, ArmStyle]
) -> Figure:
    """Draws the share of the errors that a reader finds who looks through the most uncertain voxels first.

    Args:
        curves: arm → share of voxels looked through, share of the wrong voxels among them.
        styles: arm → how it is drawn.

    Returns:
        The figure; dashed, what looking at random would find.
    """
    figure = new_figure(height=3.4)
    axes = figure.add_subplot()
    for (arm, (shares, found)), width in zip(curves.items(), line_widths(len(curves)), strict=True):
        # An arm without a wrong voxel has nothing to find.
        if not np.isfinite(found).any():
            continue
        style = styles[arm]
        axes.plot(shares, found, color=style.colour, linestyle=style.dash, linewidth=width, label=arm,
                  marker=style.marker, markersize=6, markevery=0.15)  # fmt: skip
        axes.plot(shares, shares, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, shares[-1])
    axes.set_ylim(0, 1.03)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("voxels looked through, most uncertain first")
    axes.set_ylabel("wrong voxels among them")
    legend_below(figure, axes)
    return figure
