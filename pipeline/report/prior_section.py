"""Filters and priors: what was collected of each group of layers, and how well each density fits unseen filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from pipeline.report.figure_style import arm_styles, legend_below, new_figure
from pipeline.report.section import Material, Section, number
from pipeline.report.study_files import folders, read_mapping

Scores = Mapping[str, Mapping[str, Any]]


def prior_section(material: Material) -> Section:
    """Builds the section of priors from `collect-filters/GROUP/summary.json` and `fit-priors/GROUP/scores.json`."""
    root, missing = material.files.root, []
    collected = [s for f in folders(root / "collect-filters") if (s := read_mapping(f / "summary.json"))]
    scored = {f.name: s for f in folders(root / "fit-priors") if (s := read_mapping(f / "scores.json"))}
    if not collected:
        missing.append("collect-filters/ holds no summaries: the collect-filters stage writes them.")
    if not scored:
        missing.append(
            "fit-priors/ holds no scores: the fit-priors stage writes them, so no densities can be compared."
        )
    content: dict[str, Any] = {}
    if collected:
        content["groups"] = [_group(summary) for summary in collected]
    if scored:
        densities = {group: dict(scores.get("densities") or {}) for group, scores in scored.items()}
        content |= {"scores": score_table(scored, densities)}
        if any(len(d) > 1 for d in densities.values()):
            alt = "Held-out log density of every filter prior above the lowest one, by group of layers"
            content["picture"] = material.pictures.add("held-out-nats", density_plot(densities), alt)
    return Section("priors", "Filters and priors", content, tuple(missing))


def _group(summary: Mapping[str, Any]) -> dict[str, Any]:
    quantiles = [float(q) for q in summary.get("norm_quantiles") or ()]
    middle = quantiles[len(quantiles) // 2] if quantiles else None
    moved = summary.get("moved_from_initial")
    return {
        "name": summary.get("group", "?"),
        "layers": summary.get("layers") or [],
        "filters": summary.get("filters", 0),
        "kept": summary.get("kept", 0),
        "share": f"{100 * float(summary.get('share_kept', 0)):.1f}\N{NO-BREAK SPACE}%",
        "threshold": f"{float(summary.get('norm_threshold', 0)):.3g}",
        "norms": f"{quantiles[0]:.3f} / {middle:.3f} / {quantiles[-1]:.3f}" if middle is not None else "–",
        "moved": None if moved is None else f"{float(moved):.2f}",
    }


def score_table(scored: Mapping[str, Mapping[str, Any]], densities: Mapping[str, Scores]) -> dict[str, Any]:
    """Arranges held-out nats as group × density; the best of every group is marked, a lower bound carries ≥."""
    names = list(dict.fromkeys(name for of_group in densities.values() for name in of_group))
    lines = []
    for group, of_group in densities.items():
        best = max(of_group, key=lambda name: float(of_group[name]["mean"]), default=None)
        cells = [
            name in of_group
            and {
                "mean": ("≥ " if of_group[name].get("bound") else "") + number(float(of_group[name]["mean"]), 2),
                "error": number(float(of_group[name].get("standard_error", 0.0)), 2),
                "best": name == best,
            }
            for name in names
        ]
        about = scored[group]
        lines.append({"group": group, "held_out": about.get("held_out", 0), "fitted_on": about.get("fitted_on", 0),
                      "networks": about.get("held_out_networks", ""), "cells": cells})  # fmt: skip
    return {"names": names, "lines": lines}


def density_plot(densities: Mapping[str, Scores]) -> Figure:
    """Draws the held-out nats of every density above the lowest of its group, with standard errors.

    Args:
        densities: group → density → `mean`, `standard_error`.

    Returns:
        The figure; groups differ far more than densities do, so only differences within a group are drawn.
    """
    names = list(dict.fromkeys(name for of_group in densities.values() for name in of_group))
    styles = arm_styles(names)
    figure = new_figure(height=1.2 + 0.34 * len(densities) + 0.22 * ((len(names) + 2) // 3))
    axes = figure.add_subplot()
    spread = 0.5 / max(len(names), 2)
    for i, name in enumerate(names):
        rows = [(y, of_group) for y, of_group in enumerate(densities.values()) if name in of_group]
        x = [float(g[name]["mean"]) - min(float(d["mean"]) for d in g.values()) for _, g in rows]
        error = [float(g[name].get("standard_error") or 0.0) for _, g in rows]
        y = [row + spread * (i - (len(names) - 1) / 2) for row, _ in rows]
        style = styles[name]
        axes.errorbar(
            x, y, xerr=error, fmt=style.marker, color=style.colour, markersize=5.5, elinewidth=1.1, label=name
        )
    axes.set_yticks(range(len(densities)), list(densities))
    axes.set_ylim(len(densities) - 0.5, -0.5)
    axes.set_xlabel("held-out nats per filter above the lowest density")
    legend_below(figure, axes)
    return figure
