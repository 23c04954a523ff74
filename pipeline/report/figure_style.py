"""How the figures of the report look: type, lines, and colours that the colour-blind can tell apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1d2733"
MUTED = "#5b6673"
RULE = "#d5dae0"
REFERENCE = "#56b4e9"
PREDICTION = "#f0a202"
WIDTH = 5.2
"""Inches. At this width and 10 pt, text is still readable where a phone shows the picture 370 px wide."""

# Okabe & Ito, "Color universal design" (2008); their yellow is too pale for lines on white and is darkened.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b08a00", "#e69f00", "#333333")
_WRAP = 22
"""Characters of a name beside an axis; longer ones would leave no room for the data."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")
Dash = str | tuple[int, tuple[float, ...]]
_DASHES: tuple[Dash, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)))
DOTTED: Dash = (0, (1, 1.2))
"""Of no arm as it is, so that it can mark a variant of one."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    # Verdana has the widths of DejaVu and stands in where an SVG is opened without it.
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    # Text stays text in an SVG, so that it can be edited; fixed ids make equal figures equal bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "graft",
    # Names of arms and classes may hold a `$`, which would otherwise begin a formula.
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # No powers of ten beside an axis.
    "axes.formatter.limits": (-6, 7),
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class ArmStyle:
    """Colour, marker and dash of one arm, the same in every figure; no two of the first 24 arms share all three."""

    colour: str
    marker: str
    dash: Dash


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Gives every arm its style, in the order of the list."""
    count = len(_COLOURS)
    return {
        arm: ArmStyle(_COLOURS[i % count], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, arm in enumerate(arms)
    }


@contextmanager
def figure_style() -> Iterator[None]:
    """Applies the style to all figures made and drawn inside."""
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float = WIDTH, height: float = 3.4) -> Figure:
    """Returns an empty figure with constrained layout, size in inches; no window system, no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def line_widths(count: int) -> list[float]:
    """Returns widths of lines that are drawn one over another: the lower ones are wider and show beside the upper."""
    return [3.2 - 1.9 * place / (count - 1) for place in range(count)] if count > 1 else [1.6] * count


def wrapped(name: str, width: int = _WRAP) -> str:
    """Breaks a long name of an arm into lines, after an underscore, a hyphen or a plus where it can."""
    lines = [""]
    for part in re.findall(r"[^_+\- ]*[_+\- ]?", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        while len(lines[-1]) + len(part) > width:
            room = width - len(lines[-1])
            lines[-1] += part[:room]
            lines.append("")
            part = part[room:]
        lines[-1] += part
    return "\n".join(lines)


def legend_below(figure: Figure, axes: Axes, *, columns: int = 3) -> None:
    """Puts the legend of the axes under the figure, where it covers no data, and makes the figure higher by it.

    It has as many columns as fit.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    labels = [wrapped(label, 2 * _WRAP) for label in labels]
    for number in range(min(columns, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=number)
        extent = legend.get_window_extent()
        if number == 1 or extent.width <= figure.bbox.width:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()
