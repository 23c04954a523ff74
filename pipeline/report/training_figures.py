"""Figures of training: source networks over their cycles, and the arms on the target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.report.figure_style import ArmStyle, arm_styles, legend_below, line_widths, new_figure
from pipeline.report.prior_use import gradient_share
from pipeline.report.study_files import History

_POINTS = 150
_SHARE = "gradient_share"


def block_means(history: History, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns step and value of a column, averaged over blocks of steps so that at most 150 points are drawn.

    Args:
        history: columns, `step` among them.
        column: which one; rows where it is NaN are left out.

    Returns:
        Mean step and mean value of every block; empty where the column is missing.
    """
    if column not in history or "step" not in history:
        return np.empty(0), np.empty(0)
    keep = np.isfinite(history[column])
    step, value = history["step"][keep], history[column][keep]
    blocks = min(len(step), _POINTS)
    if not blocks:
        return step, value
    return tuple(np.array([b.mean() for b in np.array_split(a, blocks)]) for a in (step, value))  # type: ignore[return-value]


def source_training(histories: Mapping[str, History]) -> Figure:
    """Draws loss, out-of-bag Dice and learning rate of every source network against the step."""
    columns = [("loss", "loss"), ("out_of_bag_dice", "Dice out of bag"), ("rate", "learning rate")]
    return _stacked(histories, columns, arm_styles(list(histories)), heights=(1.5, 1.5, 0.7))


def image_training(histories: Mapping[str, History]) -> Figure:
    """Draws the terms of the loss of every image model, and its learning rate, against the step."""
    columns = [
        ("error", "squared error"),
        ("penalty", "penalty"),
        ("negative_elbo", "−ELBO, nats\nper patch"),
        ("kl", "KL, nats\nper patch"),
        ("rate", "learning rate"),
    ]
    return _stacked(histories, columns, arm_styles(list(histories)), heights=(1.5, 0.9, 1.2, 0.9, 0.7))


def target_training(histories: Mapping[str, History], styles: Mapping[str, ArmStyle]) -> Figure:
    """Draws the data term of every arm and, where there is one, its KL and the KL's share of the gradient."""
    columns = [("data_term", "data term"), ("kl", "KL to the prior"), (_SHARE, "KL's part of\nthe gradient")]
    shares = {name: gradient_share(history) for name, history in histories.items()}
    drawn = {name: {**own, _SHARE: shares[name]} if len(shares[name]) else own for name, own in histories.items()}
    return _stacked(drawn, columns, styles, heights=(1.5, 1.1, 1.0))


def _stacked(
    histories: Mapping[str, History],
    columns: list[tuple[str, str]],
    styles: Mapping[str, ArmStyle],
    heights: tuple[float, ...],
) -> Figure:
    drawn = [
        (column, label, height)
        for (column, label), height in zip(columns, heights, strict=True)
        if any(len(block_means(h, column)[0]) for h in histories.values())
    ]
    figure = new_figure(height=0.9 + sum(h for *_, h in drawn))
    ratios = [h for *_, h in drawn] or [1.0]
    grid = figure.subplots(max(len(drawn), 1), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})
    panels: list[Axes] = list(grid[:, 0])
    for axes, (column, label, _) in zip(panels, drawn, strict=False):
        for (name, history), width in zip(histories.items(), line_widths(len(histories)), strict=True):
            step, value = block_means(history, column)
            style = styles[name]
            marker = style.marker if len(step) < 12 else ""
            axes.plot(
                step, value, color=style.colour, linestyle=style.dash, marker=marker, markersize=4, linewidth=width,
                label=name,
            )  # fmt: skip
        axes.set_ylabel(label)
    panels[-1].set_xlabel("step")
    figure.align_ylabels(panels)
    legend_below(figure, panels[0])
    return figure
