"""Figures of the results: learning curves, paired differences, and the spread over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.statistics import why_no_interval
from pipeline.evaluation.tables import PatientTable, SummaryRow
from pipeline.report.figure_style import INK, MUTED, ArmStyle, legend_below, line_widths, new_figure, wrapped

_FEW_ARMS = 6


def learning_curve(rows: Sequence[SummaryRow], styles: Mapping[str, ArmStyle], ylabel: str) -> Figure:
    """Draws the mean of one metric against the number of target patients, a line with its interval for each arm.

    Args:
        rows: summary rows of one metric.
        styles: arm → how it is drawn.
        ylabel: name of the metric.

    Returns:
        The figure. With a single size there is no curve: the arms stand side by side with their intervals.
    """
    sizes = sorted({r.n for r in rows})
    arms = [arm for arm in styles if any(r.arm == arm for r in rows)]
    figure = new_figure(height=3.4)
    axes = figure.add_subplot()
    places = _places(sizes)
    # Bars on the same n would hide each other: each arm is moved a little aside on the logarithmic axis.
    step = 0.10 if len(sizes) == 1 else 0.018
    for i, (arm, width) in enumerate(zip(arms, line_widths(len(arms)), strict=True)):
        style, of_arm = styles[arm], sorted((r for r in rows if r.arm == arm), key=lambda r: r.n)
        x = np.array([places[r.n] for r in of_arm]) * np.exp(step * (i - (len(arms) - 1) / 2))
        mean = np.array([r.mean for r in of_arm])
        low, high = np.array([r.ci_low for r in of_arm]), np.array([r.ci_high for r in of_arm])
        # Bands of many arms add up to mud; their bars remain.
        if len(sizes) > 1 and len(arms) <= _FEW_ARMS:
            axes.fill_between(x, low, high, color=style.colour, alpha=0.10, linewidth=0)
        axes.errorbar(
            x, mean, yerr=[mean - low, high - mean], fmt="none", ecolor=style.colour, elinewidth=1.1, alpha=0.8
        )
        axes.plot(
            x,
            mean,
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markersize=6,
            linewidth=width,
            markeredgecolor="white",
            label=arm,
        )
    if len(sizes) > 1:
        axes.set_xscale("log")
    else:
        [only], reach = places.values(), np.exp(step * (len(arms) / 2 + 1))
        axes.set_xlim(only / reach, only * reach)
    if 0 in sizes and len(sizes) > 1:
        # Between 0 and the next place lies no part of a logarithmic axis.
        axes.axvline((places[sizes[0]] * places[sizes[1]]) ** 0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.xaxis.set_major_locator(FixedLocator(list(places.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(n) for n in sizes])
    axes.set_xlabel("target patients with annotations (n)")
    known = any(np.isfinite(r.ci_low) for r in rows)
    axes.set_ylabel(f"{ylabel}, mean and 95 % interval" if known else f"{ylabel}, mean")
    legend_below(figure, axes)
    return figure


def _places(sizes: Sequence[int]) -> dict[int, float]:
    """Where each of the ascending sizes stands on a logarithmic axis: 0, which has no logarithm, before the others."""
    return {n: float(n or min((other for other in sizes if other), default=2) / 2) for n in sizes}


def difference_limits(comparisons: Sequence[Comparison]) -> tuple[float, float] | None:
    """Returns an axis range that holds every interval and zero, for figures that are to be compared by eye."""
    ends = [e for c in comparisons for e in (c.ci_low, c.ci_high) if np.isfinite(e)]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.05 * (high - low) or 0.01
    return low - margin, high + margin


def difference_plot(
    comparisons: Sequence[Comparison],
    styles: Mapping[str, ArmStyle],
    metric: str,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draws every arm's paired difference to the best rival, grouped by size, with intervals.

    Args:
        comparisons: of one metric.
        styles: arm → how it is drawn.
        metric: how the metric is printed.
        limits: range of the axis; by default that of the data.

    Returns:
        The figure; right of the line an arm is better than the rival.
    """
    figure = new_figure(height=1.0 + 0.25 * len(comparisons) + 0.4 * len({c.n for c in comparisons}))
    axes = figure.add_subplot()
    y, ticks, names = 0.0, [], []
    for n in sorted({c.n for c in comparisons}):
        family = [c for c in comparisons if c.n == n]
        y += 1.5
        title = f"n = {n}, minus {family[0].rival}"
        axes.text(0, y, title, transform=axes.get_yaxis_transform(), weight="bold", fontsize=9, va="center")
        for c in family:
            y += 1
            interval, style = c.interval, styles[c.arm]
            axes.plot([interval.low, interval.high], [y, y], color=style.colour, linewidth=2)
            axes.plot(interval.mean, y, marker=style.marker, color=style.colour, markersize=6.5)
            ticks.append(y)
            names.append(wrapped(c.arm))
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(ticks, names)
    axes.set_ylim(y + 0.8, 0.7)
    if limits is not None:
        axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"difference of {metric}, paired, 95 % interval")
    return figure


def patient_plot(table: PatientTable, styles: Mapping[str, ArmStyle], metric: str, n: int) -> Figure:
    """Draws every test patient's mean over repeats, with a box for the quartiles, for each arm at one size.

    Args:
        table: values at this size.
        styles: arm → how it is drawn.
        metric: how the metric is printed.
        n: the size.

    Returns:
        The figure.
    """
    arms = [arm for arm in styles if arm in table.arms]
    figure = new_figure(height=1.1 + 0.42 * len(arms))
    axes = figure.add_subplot()
    for row, arm in enumerate(arms):
        values = table.patient_means(arm)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        style = styles[arm]
        # A fixed spiral of offsets, not random jitter: the same table gives the same picture.
        aside = 0.30 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5)
        axes.scatter(
            values,
            row + aside,
            s=13 if len(values) > 30 else 26,
            color=style.colour,
            alpha=0.65,
            linewidths=0,
            zorder=3,
        )
        if why_no_interval(len(values)):
            continue
        axes.boxplot(
            values,
            positions=[row],
            orientation="horizontal",
            widths=0.55,
            showfliers=False,
            medianprops={"color": INK, "linewidth": 1.6},
            boxprops={"color": MUTED},
            whiskerprops={"color": MUTED},
            capprops={"color": MUTED},
            manage_ticks=False,
        )
    axes.set_yticks(range(len(arms)), [wrapped(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_title(f"n = {n}")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{metric} of each test patient, mean over repeats")
    return figure
