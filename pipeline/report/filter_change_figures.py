"""Figures of what training did to filters: their norms, how far they moved, and the spectrum of their covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from models.filter_structure import filter_spectrum
from pipeline.report.figure_style import INK, MUTED, new_figure
from pipeline.report.filter_files import Filters, TrainedPairs
from pipeline.report.number_text import plain

TRAINED = "#0072b2"
INITIAL = "#b08a00"
THRESHOLD = "#d55e00"
_BINS = 60


@dataclass(frozen=True)
class GroupFilters:
    """The sampled filters of one group.

    Attributes:
        bank: `[F, 27]`, trained filters of all networks and snapshots, as priors are fitted to them.
        pairs: filters before and after training, where the source networks are still there.
        threshold: norm at or below which filters are left out of fits.
        share_kept: share of the whole bank above it.
    """

    bank: Filters
    pairs: TrainedPairs | None
    threshold: float
    share_kept: float


def relative_distance(pairs: TrainedPairs) -> NDArray[np.float64]:
    """Returns ‖w_trained − w_initial‖ / ‖w_initial‖ of each filter, `[F]`."""
    initial, trained = pairs.initial.astype(np.float64), pairs.trained.astype(np.float64)
    return np.linalg.norm(trained - initial, axis=1) / np.maximum(np.linalg.norm(initial, axis=1), 1e-12)


def norm_figure(groups: Mapping[str, GroupFilters]) -> Figure:
    """Draws the norms of trained and of initial filters of every group, with the threshold, on a logarithmic axis."""
    norms = {
        name: {"trained": _norms(group.bank)} | ({"initial": _norms(group.pairs.initial)} if group.pairs else {})
        for name, group in groups.items()
    }
    everything = [values for sets in norms.values() for values in sets.values()]
    limits = _log_limits(everything, [group.threshold for group in groups.values()])

    def draw(axes: Axes, name: str) -> None:
        for label, values in norms[name].items():
            _histogram(axes, values, limits, label, TRAINED if label == "trained" else INITIAL)
        threshold = groups[name].threshold
        if threshold > 0:
            axes.axvline(threshold, color=THRESHOLD, linewidth=1.2, linestyle=(0, (3, 2)), label="threshold")
        _log_ticks(axes.xaxis, limits, plain)
        _note(axes, f"{100 * groups[name].share_kept:.1f} % kept")

    return _small_multiples(list(groups), draw, "norm of a filter (logarithmic)", "share of filters")


def distance_figure(groups: Mapping[str, GroupFilters]) -> Figure:
    """Draws how far filters moved from their initialisation, relative to its norm, with the median.

    Groups whose initialisation is not known are left out.
    """
    distances = {name: relative_distance(group.pairs) for name, group in groups.items() if group.pairs is not None}
    limits = _log_limits(list(distances.values()), [1.0])

    def draw(axes: Axes, name: str) -> None:
        median = float(np.median(distances[name]))
        _histogram(axes, distances[name], limits, "filters", TRAINED)
        axes.axvline(median, color=INK, linewidth=1.2, label="median")
        _log_ticks(axes.xaxis, limits, lambda value: f"{plain(100 * value)} %")
        _note(axes, f"median {plain(round(100 * median, 1))} %")

    return _small_multiples(list(distances), draw, "distance from the start (logarithmic)", "share of filters")


def spectrum_figure(groups: Mapping[str, GroupFilters]) -> Figure:
    """Draws the eigenvalues of the covariance of filters of every group, over the mean one of the initial filters.

    Where the initialisation is not known, they are drawn over their own mean.
    """
    curves = {}
    for name, group in groups.items():
        before = {"initial": _spectrum(group.pairs.initial)} if group.pairs is not None else {}
        sets = {"trained": _spectrum(group.bank)} | before
        scale = max(float(sets.get("initial", sets["trained"]).mean()), 1e-300)
        curves[name] = {label: values / scale for label, values in sets.items()}
    limits = _log_limits([values for sets in curves.values() for values in sets.values()], [1.0])

    def draw(axes: Axes, name: str) -> None:
        for label, values in curves[name].items():
            colour, marker = (TRAINED, "o") if label == "trained" else (INITIAL, "s")
            number = np.arange(1, len(values) + 1)
            axes.plot(number, values, color=colour, marker=marker, markersize=2.5, linewidth=1.1, label=label)
        axes.set_xticks([1, 9, 18, 27])
        _log_ticks(axes.yaxis, limits, plain)

    return _small_multiples(list(groups), draw, "number of the eigenvalue", "eigenvalue (logarithmic)")


def _spectrum(filters: Filters) -> NDArray[np.float64]:
    found: NDArray[np.float64] = filter_spectrum(torch.from_numpy(filters)).numpy()
    return found


def _norms(filters: Filters) -> NDArray[np.float64]:
    return np.linalg.norm(filters.astype(np.float64), axis=1)


def _log_limits(sets: Sequence[NDArray[np.float64]], include: Sequence[float]) -> tuple[float, float]:
    """Returns the limits of a logarithmic axis; one value in a thousand may lie below, or zeros would stretch it."""
    positive = [values[values > 0] for values in sets]
    ends = [x for v in positive if len(v) for x in (float(np.quantile(v, 0.001)), float(v.max()))]
    ends += [value for value in include if value > 0]
    return (min(ends) / 1.15, max(ends) * 1.15) if ends else (0.1, 1.0)


def _histogram(axes: Axes, values: NDArray[np.float64], limits: tuple[float, float], label: str, colour: str) -> None:
    edges = np.geomspace(*limits, _BINS + 1)
    shares = np.histogram(np.clip(values, *limits), edges)[0] / max(len(values), 1)
    axes.stairs(shares, edges, color=colour, linewidth=1.3, label=label)
    axes.stairs(shares, edges, color=colour, fill=True, alpha=0.2)


def _log_ticks(axis: XAxis | YAxis, limits: tuple[float, float], printed: Callable[[float], str]) -> None:
    """Makes an axis logarithmic, with few and plain ticks: matplotlib's own overlap on axes of a decade or two."""
    low, high = limits
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1, 2, 5) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
    ticks = [tick for p in powers for f in factors if low <= (tick := float(f"{f}e{p}")) <= high]
    if isinstance(axis, XAxis):
        axis.axes.set(xscale="log", xlim=limits)
    else:
        axis.axes.set(yscale="log", ylim=limits)
    axis.set_ticks(ticks, [printed(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _note(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="right", fontsize=8, fontweight="normal", color=MUTED)


def _small_multiples(names: Sequence[str], draw: Callable[[Axes, str], None], x: str, y: str) -> Figure:
    columns = min(2, max(len(names), 1))
    rows = max(-(-len(names) // columns), 1)
    figure = new_figure(height=0.8 + 1.25 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    handles: dict[str, Artist] = {}
    for axes, name in zip(panels, names, strict=False):
        draw(axes, name)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for axes in panels[len(names) :]:
        axes.remove()
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=max(len(handles), 1))
    # Solved once here: each format that the figure is saved in would solve it again, twice.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
