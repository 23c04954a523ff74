"""Label efficiency: how many annotated patients training from scratch would have needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pipeline.arms.presets import REFERENCE_ARM
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.label_efficiency import LabelEfficiency, why_no_efficiency
from pipeline.evaluation.study_results import LABEL_EFFICIENCY
from pipeline.report.figure_style import INK, ArmStyle, arm_styles, new_figure, wrapped
from pipeline.report.number_text import number, plain
from pipeline.report.section import Material, Section
from pipeline.storage.file_names import RESULTS

TITLE = "Label efficiency"


def label_efficiency_section(material: Material) -> Section:
    """Builds the section from `results/label_efficiency.csv`."""
    path = material.files.root / RESULTS / LABEL_EFFICIENCY
    if not path.is_file():
        text = f"results/{LABEL_EFFICIENCY} is missing: the evaluate stage writes it."
        return Section("label_efficiency", TITLE, missing=(text,))
    rows = read_rows(path, LabelEfficiency)
    study = material.files.study
    reason = why_no_efficiency(study) if study is not None else None
    if reason is not None or not rows:
        text = f"Not available: {reason or 'the table is empty'}."
        return Section("label_efficiency", TITLE, missing=(text,))
    arms = material.files.arms()
    rows.sort(key=lambda r: (r.n, arms.index(r.arm) if r.arm in arms else len(arms)))
    figure = efficiency_plot(rows, arm_styles(arms))
    alt = "Label efficiency with its interval, by arm and size"
    content = {
        "baseline": REFERENCE_ARM,
        "lines": [_line(row) for row in rows],
        "picture": material.pictures.add("label-efficiency", figure, alt),
        "bounded": any(row.relation != "=" for row in rows),
    }
    return Section("label_efficiency", TITLE, content)


def _line(row: LabelEfficiency) -> dict[str, Any]:
    low, high = _bound(row.ci_low, row.low_relation), _bound(row.ci_high, row.high_relation)
    return {
        "arm": row.arm,
        "n": row.n,
        "value": number(row.value),
        "patients": _bound(row.patients, row.relation, 1),
        "efficiency": _bound(row.efficiency, row.relation),
        # Of a bound alone there is no interval to speak of.
        "interval": "" if low == high else f"[{low}, {high}]",
    }


def _bound(value: float, relation: str, digits: int = 2) -> str:
    """Prints a number, or the bound that is all that is known of it."""
    return number(value, digits) if relation == "=" else f"{relation} {number(value, digits)}"


def efficiency_plot(rows: Sequence[LabelEfficiency], styles: Mapping[str, ArmStyle]) -> Figure:
    """Draws the factor of every arm with its interval; an arrow where only a bound is known.

    Args:
        rows: one for each arm and size.
        styles: arm → how it is drawn.

    Returns:
        The figure; right of the line an arm needs fewer patients than training from scratch.
    """
    sizes = sorted({r.n for r in rows})
    figure = new_figure(height=1.1 + 0.25 * len(rows) + 0.4 * len(sizes))
    axes = figure.add_subplot()
    axes.set_xscale("log")
    y, ticks, names = 0.0, [], []
    for n in sizes:
        y += 1.5
        axes.text(0, y, f"n = {n}", transform=axes.get_yaxis_transform(), weight="bold", fontsize=9, va="center")
        for row in (r for r in rows if r.n == n):
            y += 1
            style = styles[row.arm]
            axes.plot([row.ci_low, row.ci_high], [y, y], color=style.colour, linewidth=2)
            marker = {"=": style.marker, ">": 9, "<": 8}[row.relation]
            axes.plot(row.efficiency, y, marker=marker, color=style.colour, markersize=7)
            for end, relation in ((row.ci_low, row.low_relation), (row.ci_high, row.high_relation)):
                if relation != "=":
                    axes.plot(end, y, marker=9 if relation == ">" else 8, color=style.colour, markersize=7)
            ticks.append(y)
            names.append(wrapped(row.arm))
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(ticks, names)
    axes.set_ylim(y + 0.8, 0.7)
    values = [v for r in rows for v in (r.ci_low, r.ci_high, r.efficiency, 1.0)]
    axes.set_xlim(min(values) / 1.25, max(values) * 1.25)
    marks = [m for m in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if min(values) / 1.25 <= m <= max(values) * 1.25]
    axes.set_xticks(marks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(float(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("label efficiency m / n, 95 % interval")
    return figure
