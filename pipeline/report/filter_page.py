"""The page of filters, `report/filters.html`: what training did to them, samples of densities, and latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.errors import WorkspaceError
from data.random_streams import stream_seed
from models.filter_bank import FilterBank
from models.filter_structure import effective_dimension, filter_spectrum
from models.priors.displacement import DisplacementOptions
from models.priors.filter_vae import FilterVAE
from models.priors.prior import FilterPrior
from models.priors.vae_options import AUTO_LATENT
from pipeline.priors.filter_summary import FilterSummary
from pipeline.priors.scores_record import ScoresRecord
from pipeline.priors.structure_record import FilterStructure, OverNetworks
from pipeline.report.density_scores import vae_densities
from pipeline.report.filter_change_figures import (
    GroupFilters,
    distance_figure,
    norm_figure,
    relative_distance,
    spectrum_figure,
)
from pipeline.report.filter_figures import MOST_AXES, interpolation_figure, sample_figure, traversal_figure
from pipeline.report.filter_files import Filters, read_filters, read_prior, read_trained_pairs, sample_rows
from pipeline.report.latent_traversal import draw_pairs, interpolate, traverse
from pipeline.report.number_text import counted, listing, percent, plain
from pipeline.report.page import page_environment
from pipeline.report.picture import Picture
from pipeline.report.section import Material
from pipeline.storage.atomic import write_text

PAGE = "filters.html"
_PAIRS = 2


@dataclass(frozen=True)
class FilterPage:
    """What became of the page.

    Attributes:
        address: as seen from `index.html`; None where there is no page.
        unreadable: what could not be read, one sentence each: results are worth a report without pictures of filters.
        unused: VAE → groups in which it uses none of its latents.
    """

    address: str | None
    unreadable: tuple[str, ...]
    unused: Mapping[str, list[str]]


@dataclass
class _Group:
    """What is shown of one group."""

    name: str
    bank: FilterBank
    filters: GroupFilters


def build_filter_page(
    material: Material,
    summaries: Mapping[str, FilterSummary],
    structures: Mapping[str, FilterStructure],
    scores: Sequence[ScoresRecord],
    notice: str | None = None,
) -> FilterPage:
    """Writes the page, where there are filters to show.

    Args:
        material: what the report is made from.
        summaries: group → its `summary.json`, in the order of the page.
        structures: group → its `structure.json`, where it was measured.
        scores: held-out scores, which decide the densities that are shown.
        notice: says which filters are still their random start, so that there is little to learn from them.

    Returns:
        Where it is and what was found.
    """
    path = material.pictures.folder.parent / PAGE
    options = material.options
    groups, unreadable = [], []
    of_group = {score.group: score for score in scores}
    for name, summary in summaries.items():
        try:
            group = _read_group(material, name, summary, of_group.get(name))
        except WorkspaceError as error:
            unreadable.append(str(error))
            continue
        groups += [group] if group is not None else []
    if not groups:
        return FilterPage(None, tuple(unreadable), {})
    shown, rest = groups[: options.filter_groups], groups[options.filter_groups :]
    pictures = [_pictures(material, group, of_group.get(group.name)) for group in shown]
    unused: dict[str, list[str]] = {}
    for pictured in pictures:
        for walk in pictured["walks"]:
            if walk["used"] == 0:
                unused.setdefault(walk["name"], []).append(pictured["name"])
    page = (
        page_environment()
        .get_template("filters.html.j2")
        .render(
            study=material.files.title,
            change=_change(material, shown, structures),
            groups=pictures,
            left_out=listing([group.name for group in rest]),
            sampled=options.filters_sampled,
            hardly_moved=_percent(options.hardly_moved),
            scored=bool(scores),
            notice=notice,
        )
    )
    write_text(path, page)
    return FilterPage(PAGE, tuple(unreadable), unused)


def _read_group(material: Material, name: str, summary: FilterSummary, scores: ScoresRecord | None) -> _Group | None:
    root, seed, most = material.files.root, material.files.seed, material.options.filters_sampled
    bank = read_filters(root, name, most, seed)
    if bank is None or len(bank) < 2:
        return None
    pairs = read_trained_pairs(root, name, summary.layers, most, seed)
    threshold, share = (scores.norm_threshold, scores.share_kept) if scores else (0.0, 1.0)
    filters = GroupFilters(bank.filters.numpy(), pairs, threshold, share)
    return _Group(name, bank, filters)


def _change(material: Material, groups: Sequence[_Group], structures: Mapping[str, FilterStructure]) -> dict[str, Any]:
    """Pictures and table of what training did to the filters of all groups."""
    of_name = {group.name: group.filters for group in groups}
    known = any(filters.pairs is not None for filters in of_name.values())
    add = material.pictures.add
    return {
        "norms": add("filter-norms", norm_figure(of_name), "Norms of trained and of initial filters by group"),
        "distances": add("filter-distances", distance_figure(of_name), "Distance of filters from their start by group")
        if known
        else None,
        "spectra": add("filter-spectra", spectrum_figure(of_name), "Eigenvalues of the covariance of filters by group"),
        "rows": [
            _change_row(name, filters, material.options.hardly_moved) | _structure(filters, structures.get(name))
            for name, filters in of_name.items()
        ],
    }


def _change_row(name: str, filters: GroupFilters, hardly_moved: float) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name}
    if filters.pairs is None:
        return row | {"moved": None}
    distance = relative_distance(filters.pairs)
    low, median, high = (_percent(q) for q in np.quantile(distance, (0.05, 0.5, 0.95)))
    return row | {
        "moved": {
            "low": low,
            "median": median,
            "high": high,
            "still": _percent(float(np.mean(distance < hardly_moved))),
        },
        "networks": counted(filters.pairs.networks, "network"),
        "rows": len(filters.pairs.initial),
        "total": filters.pairs.total,
    }


def _structure(filters: GroupFilters, structure: FilterStructure | None) -> dict[str, Any]:
    """Effective dimensions of a group, and how much of its filters is still their start, where that was measured."""
    before = "?" if filters.pairs is None else f"{_dimension(filters.pairs.initial):.1f}"
    if structure is None:
        return {"before": before, "dimensions": f"{_dimension(filters.bank):.1f}", "intrinsic": None, "structure": None}
    shares = {"still": structure.still_start, "left": structure.start_left, "under": structure.under_threshold}
    return {
        "before": before,
        "dimensions": f"{structure.effective_dimension.mean:.1f}",
        "intrinsic": _intrinsic(structure),
        "structure": {name: {"mean": _percent(own.mean), "range": _range(own)} for name, own in shares.items()},
    }


def _intrinsic(structure: FilterStructure) -> dict[str, str] | None:
    likelihood, two_nearest = structure.intrinsic_dimension, structure.two_nearest_dimension
    if likelihood is None or two_nearest is None:
        return None
    return {"mean": f"{likelihood.mean:.1f}", "two_nearest": f"{two_nearest.mean:.1f}"}


def _dimension(filters: Filters) -> float:
    return effective_dimension(filter_spectrum(torch.from_numpy(filters)))


def _range(shares: OverNetworks) -> str:
    return f"{_percent(shares.low)} to {_percent(shares.high)}"


def _pictures(material: Material, group: _Group, scores: ScoresRecord | None) -> dict[str, Any]:
    """Samples beside trained filters, and walks through the latents of VAEs, of one group."""
    options, notes = material.options, list[str]()
    priors: dict[str, FilterPrior] = {}
    best, vaes = _chosen(material, scores)
    for name in dict.fromkeys([*best, *vaes]):
        try:
            prior = read_prior(material.files.root, material.files.densities(), group.name, name)
        except WorkspaceError as error:
            notes.append(str(error))
            continue
        if prior is None:
            notes.append(f"fit-priors/{group.name}/{name}/ is missing: 'graft fit-priors' writes it.")
        else:
            priors[name] = prior
    rows = torch.from_numpy(
        sample_rows(len(group.bank), options.filters_shown, material.files.seed, "shown", group.name)
    )
    chosen = group.bank[rows]
    blocks = {"Trained filters": chosen.filters.numpy()}
    for name, prior in priors.items():
        generator = torch.Generator().manual_seed(
            stream_seed(material.files.seed, "report", "samples", group.name, name)
        )
        # At the same positions, so that a density that asks for the layer is compared layer by layer.
        blocks[f"Samples of {name}"] = prior.sample(chosen.positions, generator).float().numpy()
    alt = f"{listing(list(blocks))} of group {group.name}, each as three orthogonal slices"
    walks = [_walk(material, group, name, p) for name, p in priors.items() if name in vaes and isinstance(p, FilterVAE)]
    return {
        "name": group.name,
        "picture": material.pictures.add(f"filters-{group.name}-samples", sample_figure(blocks), alt),
        "densities": list(priors),
        "auto": scores.choice if scores is not None else None,
        "count": len(chosen),
        "walks": walks,
        "notes": notes,
    }


def _chosen(material: Material, scores: ScoresRecord | None) -> tuple[list[str], list[str]]:
    """Names the density of choice of a group (what `auto` chose, else the best), and its best VAEs."""
    if scores is None:
        return [], []
    best, densities = scores.choice or scores.best, material.files.densities()
    ranked = sorted(scores.densities, key=lambda name: -scores.densities[name].mean)
    vaes = vae_densities(densities, ranked)[: material.options.filter_vaes]
    # A density of changes has no filters to show.
    shown = best is not None and not isinstance(densities.get(best), DisplacementOptions)
    return ([best] if shown and best is not None else []), vaes


def _walk(material: Material, group: _Group, name: str, prior: FilterVAE) -> dict[str, Any]:
    walk = traverse(prior, group.bank)
    base = f"filters-{group.name}-{name}"
    add = material.pictures.add
    alt = f"What the decoder of {name} makes of each axis of its latent, group {group.name}"
    pairs = [interpolate(prior, pair) for pair in draw_pairs(group.bank, _PAIRS, material.files.seed, group.name)]
    interpolation: Picture | None = None
    factor = 1.0
    if pairs:
        figure, factor = interpolation_figure(pairs)
        interpolation = add(
            f"{base}-interpolation",
            figure,
            f"From one filter to another through the latent of {name}, group {group.name}",
        )
    return {
        "name": name,
        "traversal": add(f"{base}-traversal", traversal_figure(walk), alt),
        "used": walk.used,
        "latent": len(walk.axes),
        "chosen": prior.options.latent == AUTO_LATENT,
        "drawn": min(len(walk.axes), MOST_AXES),
        "explained": _percent(max(walk.explained, 0.0)),
        "one_layer": prior.needs_positions,
        "interpolation": interpolation,
        "factor": plain(float(factor)),
    }


def _percent(share: float) -> str:
    return percent(share) if share >= 0.1 or share == 0 else f"{plain(round(100 * share, 2))}\N{NO-BREAK SPACE}%"
