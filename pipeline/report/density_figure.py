"""The figure of held-out scores: every density against the full-covariance Gaussian, group by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.priors.scores_record import ScoresRecord
from pipeline.report.figure_style import INK, MUTED, ArmStyle, arm_styles, legend_below, new_figure, wrapped
from pipeline.report.number_text import plain

_LINEAR = 1.0
"""Nats up to which the axis is linear where differences span more than ten times as much."""
_TICKS = (0.0, 0.5, 1.0, 3.0, 10.0, 30.0, 100.0)


def density_figure(groups: Sequence[ScoresRecord], reference: str | None) -> Figure:
    """Draws the paired difference of every density to the full-covariance Gaussian, with standard errors.

    Groups differ far more than densities do, so only differences within a group are drawn. A ring marks what `auto`
    chose.

    Args:
        groups: scores, in the order of the axis.
        reference: name of the full-covariance Gaussian among the densities, if it is one; it is the zero line.
    """
    everyone = dict.fromkeys(name for group in groups for name in group.densities)
    names = [name for name in everyone if name != reference]
    width = 0.7 / max(len(names), 2)
    shifts = {name: width * (i - (len(names) - 1) / 2) for i, name in enumerate(names)}
    figure = new_figure(height=3.3)
    axes = figure.add_subplot()
    axes.axhline(0.0, color=MUTED, linewidth=1.2, label=reference or "full-covariance Gaussian")
    for name, style in arm_styles(names).items():
        _draw_density(axes, groups, name, shifts[name], style)
    _ring_choices(axes, groups, shifts, reference)
    _scale(axes, groups)
    axes.set_xticks(
        range(len(groups)), [wrapped(g.group) for g in groups], rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("nats per filter above the full Gaussian")
    legend_below(figure, axes)
    return figure


def _draw_density(axes: Axes, groups: Sequence[ScoresRecord], name: str, shift: float, style: ArmStyle) -> None:
    """Draws the differences of one density, beside those of the others."""
    found = {x + shift: difference for x, group in enumerate(groups) if (difference := group.difference_of(name))}
    axes.errorbar(
        list(found),
        [difference.mean for difference in found.values()],
        yerr=[difference.standard_error or 0.0 for difference in found.values()],
        fmt=style.marker,
        color=style.colour,
        markersize=5,
        elinewidth=1.2,
        capsize=2,
        label=name,
    )


def _ring_choices(
    axes: Axes, groups: Sequence[ScoresRecord], shifts: Mapping[str, float], reference: str | None
) -> None:
    """Marks what `auto` chose; the full-covariance Gaussian lies on the zero line."""
    rings = []
    for x, group in enumerate(groups):
        if group.choice is not None and group.choice == reference:
            rings.append((float(x), 0.0))
        elif group.choice is not None and (difference := group.difference_of(group.choice)):
            rings.append((x + shifts[group.choice], difference.mean))
    if rings:
        across, up = zip(*rings, strict=True)
        axes.scatter(across, up, s=110, facecolors="none", edgecolors=INK, linewidths=1.2, label="chosen by auto")


def _scale(axes: Axes, groups: Sequence[ScoresRecord]) -> None:
    """Makes the axis logarithmic beyond one nat where it must be: an isotropic Gaussian is often ten nats below."""
    found = [d for group in groups for name in group.densities if (d := group.difference_of(name))]
    ends = [0.0, *(d.mean + sign * (d.standard_error or 0.0) for d in found for sign in (-1, 1))]
    low, high = min(ends), max(ends)
    if high - low <= 10 * _LINEAR:
        return
    axes.set_yscale("symlog", linthresh=_LINEAR)
    ticks = {sign * tick + 0.0 for tick in _TICKS for sign in (-1, 1)}
    shown = sorted(tick for tick in ticks if low * 1.2 - 0.2 <= tick <= high * 1.2 + 0.2)
    axes.set_yticks(shown, [plain(tick) for tick in shown], minor=False)
    axes.set_yticks([], minor=True)
