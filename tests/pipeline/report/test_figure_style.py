from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.report.calibration_figures import review_plot
from pipeline.report.figure_style import (
    DOTTED,
    arm_styles,
    figure_style,
    legend_below,
    line_widths,
    new_figure,
    wrapped,
)


@pytest.mark.parametrize(("name", "columns"), [("dwp", 3), ("fine_tune+temperature", 2), ("x" * 50, 1)])
def test_a_legend_has_as_many_columns_as_fit(name: str, columns: int) -> None:
    figure = new_figure()
    axes = figure.add_subplot()
    for number in range(5):
        axes.plot([0, 1], [0, number], label=f"{name} {number}")
    legend_below(figure, axes)
    (legend,) = figure.legends
    assert legend._ncols == columns
    assert legend.get_window_extent().width <= figure.bbox.width


def test_a_legend_takes_its_room_below_the_axes_and_not_from_them() -> None:
    heights = []
    for count in (1, 30):
        figure = new_figure()
        axes = figure.add_subplot()
        for number in range(count):
            axes.plot([0, 1], [0, number], label=f"arm {number}")
        legend_below(figure, axes)
        figure.draw_without_rendering()
        heights.append(axes.get_position().height * figure.get_figheight())
    assert heights[1] > 0.9 * heights[0]


def test_neighbouring_arms_differ_in_colour_marker_and_dash_and_none_is_dotted() -> None:
    styles = list(arm_styles([f"arm {i}" for i in range(24)]).values())
    assert len({(s.colour, s.marker, str(s.dash)) for s in styles}) == 24
    assert DOTTED not in {s.dash for s in styles}
    for first, second in itertools.pairwise(styles):
        assert first.colour != second.colour
        assert first.marker != second.marker
        assert first.dash != second.dash


def test_a_line_under_another_shows_beside_it() -> None:
    widths = line_widths(4)
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4
    assert line_widths(1) == [1.6]


@pytest.mark.parametrize(
    "name", ["x" * 60, "a_long_name_of_an_arm_with_many_parts_and_more", "fine_tune", "", "a-b+c d_"]
)
def test_long_names_are_broken_and_nothing_of_them_is_lost(name: str) -> None:
    lines = wrapped(name, 22).split("\n")
    assert "".join(lines) == name
    assert all(len(line) <= 22 for line in lines)
    assert len(lines) > 1 or len(name) <= 22


def test_numbers_of_small_uncertainties_do_not_run_into_each_other() -> None:
    style = arm_styles(["swag"])
    points = {"swag": (np.array([0.00004, 0.00042]), np.array([0.4, 0.6]))}
    with figure_style():
        figure = review_plot(points, style, 3, "mean mutual information (nats)")
        figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    assert len(boxes) > 2
    assert not any("$" in label.get_text() for label in axes.get_xticklabels())
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
