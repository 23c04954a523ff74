"""Figures of single filters: trained ones beside samples of a density, and walks through a VAE's latent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from models.latent_walks import USED
from pipeline.report.filter_files import Filters
from pipeline.report.filter_mosaic import MosaicPanel, colour_limit, column_mosaic, mosaic_figure, row_mosaic
from pipeline.report.latent_traversal import Interpolation, Traversal

MOST_AXES = 12
"""Axes of a latent that are drawn."""


def sample_figure(blocks: Mapping[str, Filters]) -> Figure:
    """Draws blocks of filters below one another, all on one colour scale.

    Args:
        blocks: title → `[F, 27]`. Within a block, filters are sorted by norm, so that columns can be compared.
    """
    panels = []
    for title, filters in blocks.items():
        order = np.argsort(-np.linalg.norm(filters, axis=1), kind="stable")
        panels.append(MosaicPanel(column_mosaic(filters[order]), title))
    return mosaic_figure(panels, colour_limit(*blocks.values()))


def traversal_figure(traversal: Traversal) -> Figure:
    """Draws what the decoder makes of points on the axes of the latent: a row for each axis, a column for a step.

    Of a large latent, the axes in most use are drawn (`MOST_AXES`).
    """
    shown = traversal.filters[:MOST_AXES]
    rows = [
        f"z{axis + 1}" + ("" if activity > USED else "\nunused")
        for axis, activity in zip(traversal.axes, traversal.activity, strict=True)
    ][:MOST_AXES]
    columns = [_step(step) for step in traversal.steps]
    panel = MosaicPanel(row_mosaic(shown), columns=columns, rows=rows)
    return mosaic_figure([panel], colour_limit(shown), margin=0.55)


def interpolation_figure(interpolations: Sequence[Interpolation]) -> tuple[Figure, float]:
    """Draws ways from filter to filter: the first filter, the decoded line, the second filter.

    Returns:
        The figure, and the factor by which decoded filters are stretched in it. A decoder's mean leaves out what the
        decoder calls noise, so it is often far smaller than the filters and would look blank on their scale.
    """
    limit = colour_limit(*(way.ends for way in interpolations))
    factor = _round_down(limit / colour_limit(*(way.filters for way in interpolations)))
    panels = [
        MosaicPanel(
            column_mosaic(np.concatenate([way.ends[:1], factor * way.filters, way.ends[1:]])),
            columns=["filter A", *(f"{100 * share:.0f} %" for share in way.shares), "filter B"],
        )
        for way in interpolations
    ]
    return mosaic_figure(panels, limit), factor


def _round_down(factor: float) -> float:
    """Returns the largest of 1, 2, 5, 10, 20, 50 and 100 that is not above the factor; 1 at least."""
    return max((step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0) if step <= factor), default=1.0)


def _step(step: float) -> str:
    return "mean" if step == 0 else f"{step:+.3g} sd".replace("-", "−")
