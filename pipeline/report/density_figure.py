"""The figure of held-out scores: every density against the full-covariance Gaussian, group by group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.report.density_scores import GroupScores
from pipeline.report.figure_style import INK, MUTED, arm_styles, legend_below, new_figure, wrapped
from pipeline.report.number_text import plain

_LINEAR = 1.0
"""Nats up to which the axis is linear where differences span more than ten times as much."""


def density_figure(groups: Sequence[GroupScores], reference: str | None) -> Figure:
    """Draws the paired difference of every density to the full-covariance Gaussian, with standard errors.

    Groups differ far more than densities do, so only differences within a group are drawn. A ring marks what `auto`
    chose; an isotropic Gaussian is often ten nats below, so the axis is logarithmic beyond one nat where it must be.

    Args:
        groups: scores, in the order of the axis.
        reference: name of the full-covariance Gaussian among the densities, if it is one; it is the zero line.
    """
    everyone = dict.fromkeys(name for group in groups for name in group.densities)
    names = [name for name in everyone if name != reference]
    styles = arm_styles(names)
    figure = new_figure(height=3.3)
    axes = figure.add_subplot()
    axes.axhline(0.0, color=MUTED, linewidth=1.2, label=reference or "full-covariance Gaussian")
    width = 0.7 / max(len(names), 2)
    ends = [0.0]
    for i, name in enumerate(names):
        shift = width * (i - (len(names) - 1) / 2)
        found = [
            (x + shift, d) for x, g in enumerate(groups) if name in g.densities and (d := g.densities[name].difference)
        ]
        x, mean, error = (
            [p[0] for p in found],
            [d.mean for _, d in found],
            [d.standard_error or 0.0 for _, d in found],
        )
        ends += [m + sign * e for m, e in zip(mean, error, strict=True) for sign in (-1, 1)]
        style = styles[name]
        axes.errorbar(
            x,
            mean,
            yerr=error,
            fmt=style.marker,
            color=style.colour,
            markersize=5,
            elinewidth=1.2,
            capsize=2,
            label=name,
        )
    rings = [_chosen(x, group, names, reference, width) for x, group in enumerate(groups)]
    if chosen := [ring for ring in rings if ring is not None]:
        across, up = zip(*chosen, strict=True)
        axes.scatter(across, up, s=110, facecolors="none", edgecolors=INK, linewidths=1.2, label="chosen by auto")
    if max(ends) - min(ends) > 10 * _LINEAR:
        axes.set_yscale("symlog", linthresh=_LINEAR)
        ticks = [s * t + 0.0 for t in (0.0, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0) for s in (-1, 1)]
        shown = sorted({t for t in ticks if min(ends) * 1.2 - 0.2 <= t <= max(ends) * 1.2 + 0.2})
        axes.set_yticks(shown, [plain(t) for t in shown], minor=False)
        axes.set_yticks([], minor=True)
    axes.set_xticks(
        np.arange(len(groups)),
        [wrapped(group.group) for group in groups],
        rotation=30,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("nats per filter above the full Gaussian")
    legend_below(figure, axes)
    return figure


def _chosen(
    x: int, group: GroupScores, names: list[str], reference: str | None, width: float
) -> tuple[float, float] | None:
    if group.auto is not None and group.auto == reference:
        return float(x), 0.0
    score = group.densities.get(group.auto or "")
    if score is None or score.difference is None or group.auto is None:
        return None
    return x + width * (names.index(group.auto) - (len(names) - 1) / 2), score.difference.mean
