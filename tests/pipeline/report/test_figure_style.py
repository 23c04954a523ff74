from __future__ import annotations

import pytest

from pipeline.report.figure_style import legend_below, new_figure


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
