"""Filters and priors: what was collected of each group of layers, and how well each density fits unseen filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.stored_record import record_if_there
from pipeline.priors.filter_options import FilterOptions
from pipeline.priors.filter_summary import FilterSummary
from pipeline.priors.scores_record import DensityRecord, Estimate, ScoresRecord
from pipeline.priors.structure_record import FilterStructure, little_to_learn
from pipeline.report.density_figure import density_figure
from pipeline.report.density_scores import read_scores, reference_density, vae_densities
from pipeline.report.filter_files import group_folders
from pipeline.report.filter_page import build_filter_page
from pipeline.report.number_text import NOTHING, listing, number, percent, plain, signed
from pipeline.report.section import Material, Section
from pipeline.report.source_pack import NO_FILTERS
from pipeline.report.source_use import source_use
from pipeline.storage.file_names import STRUCTURE, STRUCTURES, SUMMARY_JSON
from pipeline.storage.stage_names import Stage


def prior_section(material: Material) -> Section:
    """Builds the section of priors from `collect-filters/GROUP/` and `compare-priors/GROUP/`.

    Pictures of single filters go to a page of their own, `filters.html` beside the report, which this links.
    """
    files, missing = material.files, []
    found = (record_if_there(f / SUMMARY_JSON, FilterSummary) for f in group_folders(files.root, Stage.COLLECT_FILTERS))
    summaries = {summary.group: summary for summary in found if summary is not None}
    scores = read_scores(files.root, files.densities())
    of_group = {group.group: group for group in scores}
    if not summaries and not scores and not source_use(files).priors:
        text = "No arm of this study uses a filter prior, so no filters were collected and no densities fitted to them."
        return Section("priors", "Filters and priors", missing=(text,))
    if not summaries and files.pack is None:
        missing.append("collect-filters/ holds no summaries: the collect-filters stage writes them.")
    if not scores:
        missing.append(
            "compare-priors/ holds no scores: the fit-priors stage writes them, so no densities can be compared."
        )
    content: dict[str, Any] = {} if files.pack is None else {"no_filters": NO_FILTERS}
    paths = (folder / STRUCTURE for folder in group_folders(files.root, STRUCTURES))
    measured = (record_if_there(path, FilterStructure) for path in paths)
    structures = {own.group: own for own in measured if own is not None}
    limit = FilterOptions().most_start if files.config is None else files.config.filters.most_start
    little = little_to_learn(structures.values(), limit, of_pack=files.pack is not None)
    if little is not None:
        content["little_to_learn"] = little
    page = build_filter_page(material, summaries, structures, scores, little)
    missing += page.unreadable
    if summaries:
        content |= {
            "groups": [
                _group(summary, of_group.get(name), structures.get(name)) for name, summary in summaries.items()
            ],
            "page": page.address,
            "unused": [unused_latents(vae, groups, len(summaries)) for vae, groups in page.unused.items()],
        }
    if scores:
        content |= _scores(material, scores)
    return Section("priors", "Filters and priors", content, tuple(missing))


def _group(summary: FilterSummary, scores: ScoresRecord | None, structure: FilterStructure | None) -> dict[str, Any]:
    norms = summary.norm_quantiles
    return {
        "name": summary.group,
        "layers": summary.layers,
        "filters": plain(summary.filters),
        "kept": plain(scores.kept if scores else None),
        "share": percent(scores.share_kept, 1) if scores else NOTHING,
        "threshold": plain(scores.norm_threshold if scores else None),
        "norms": f"{norms[0]:.3f} / {norms[len(norms) // 2]:.3f} / {norms[-1]:.3f}",
        "moved": f"{summary.moved_from_initial:.2f}",
        "still": percent(structure.still_start.mean, 1) if structure else NOTHING,
    }


def unused_latents(vae: str, groups: Sequence[str], count: int) -> str:
    """Says in which groups of layers a VAE uses none of its latents, and what it is worth there."""
    where = "every group" if len(groups) == count else listing(groups)
    return (
        f"The VAE “{vae}” uses none of its latents in {where}: its decoder gives one density for "
        "all filters there, and it has learned nothing of how they differ."
    )


def _scores(material: Material, scores: Sequence[ScoresRecord]) -> dict[str, Any]:
    options = material.files.densities()
    names = list(dict.fromkeys(name for group in scores for name in group.densities))
    reference = reference_density(options, names)
    content: dict[str, Any] = {
        "scores": score_table(scores),
        "reference": reference or "a full-covariance Gaussian",
        "not_scored": _not_scored(scores),
        "auto": any(group.choice for group in scores),
        "latents": any(own.latent for group in scores for own in group.densities.values()),
        "one_network": _single_network(scores),
        "verdict": vae_verdict(scores, vae_densities(options, names)),
    }
    if any(group.difference_of(name) for group in scores for name in names):
        alt = (
            "Held-out log density of every filter prior minus that of the full-covariance Gaussian, by group of layers"
        )
        content["picture"] = material.pictures.add("held-out-nats", density_figure(scores, reference), alt)
    return content


def _single_network(groups: Sequence[ScoresRecord]) -> str:
    """Names the groups whose error is over the filters of one network, not over networks; empty where there is none."""
    single = [g.group for g in groups if any(not density.over_networks for density in g.densities.values())]
    return "every group" if len(single) == len(groups) else listing(single)


def score_table(groups: Sequence[ScoresRecord]) -> dict[str, Any]:
    """Arranges held-out nats as group × density; the best of every group is marked, a lower bound carries ≥."""
    names = list(dict.fromkeys(name for group in groups for name in group.densities))
    lines = []
    for group in groups:
        cells = [
            name in group.densities
            and _cell(group.densities[name]) | {"best": name == group.best, "auto": name == group.choice}
            for name in names
        ]
        lines.append({"group": group.group, "held_out": plain(group.held_out), "fitted_on": plain(group.fitted_on),
                      "networks": group.held_out_networks, "cells": cells})  # fmt: skip
    return {"names": names, "lines": lines}


def _cell(score: DensityRecord) -> dict[str, Any]:
    difference = score.difference_to_gaussian_full
    return {
        "mean": ("≥ " if score.bound else "") + number(score.mean, 2),
        "error": _error(score),
        "latent": score.latent,
        "difference": None if difference is None else f"{signed(difference.mean, 2)} ± {_error(difference)}",
    }


def _error(estimate: Estimate) -> str:
    return "?" if estimate.standard_error is None else number(estimate.standard_error, 2)


def _not_scored(groups: Sequence[ScoresRecord]) -> list[dict[str, str]]:
    """Names every density without a score once for each reason, with its groups where these are not all."""
    found: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for name, reason in group.not_scored.items():
            found.setdefault((name, reason), []).append(group.group)
    return [
        {"name": name, "reason": reason, "groups": "" if len(where) == len(groups) else listing(where)}
        for (name, reason), where in found.items()
    ]


def vae_verdict(groups: Sequence[ScoresRecord], vaes: Sequence[str]) -> str | None:
    """Says in how many groups a VAE beats the full-covariance Gaussian by more than two standard errors, and where not.

    Returns:
        The sentence; None without a VAE.
    """
    leads = {group.group: _vae_leads(group, vaes) for group in groups if not group.densities.keys().isdisjoint(vaes)}
    if not leads:
        return None
    unknown = [group for group, lead in leads.items() if lead is None]
    behind = [group for group, lead in leads.items() if lead is False]
    known = len(leads) - len(unknown)
    if not known:
        return (
            "This study cannot tell whether a variational auto-encoder is better than the full-covariance "
            "Gaussian: with fewer than two networks held out, the paired difference has no standard error over "
            "networks."
        )
    sentences = [
        "A variational auto-encoder is better than the full-covariance Gaussian by more than two standard errors of "
        f"the paired difference in {known - len(behind)} of {known} groups.",
        f"It is not in {listing(behind)}." if 0 < len(behind) < known else "",
        f"For {listing(unknown)} that error is not known." if unknown else "",
    ]
    return " ".join(filter(None, sentences))


def _vae_leads(group: ScoresRecord, vaes: Sequence[str]) -> bool | None:
    """Whether a VAE beats the full-covariance Gaussian clearly in a group; `None` where the error is not known."""
    scores = [group.densities[name] for name in vaes if name in group.densities]
    differences = [own.difference_to_gaussian_full for own in scores if own.over_networks]
    known = [difference for difference in differences if difference and difference.standard_error is not None]
    return any(difference.clear for difference in known) if known else None
