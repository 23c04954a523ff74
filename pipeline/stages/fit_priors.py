"""fit-priors: densities over the filters of every group, scored on the filters of held-out networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data.random_streams import stream_seed
from models.filter_bank import FilterBank
from models.priors.factory import PriorOptions, build_prior, centred_on_network
from models.priors.prior import FilterPrior, FitReport
from pipeline.config.study import StudyConfig
from pipeline.progress import ProgressFile
from pipeline.stages import collect_filters
from pipeline.stages.filter_options import PriorFitOptions
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import read_plan
from pipeline.storage.atomic import write_json
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.storage.units import Unit, require_done
from pipeline.storage.workspace import Workspace

STAGE = "fit-priors"


def prior_name(density: str) -> str:
    """File name of a fitted density."""
    return f"{density}.safetensors"


def _generator(*names: str | int, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_seed(seed, "priors", *names))


def _held_out(bank: FilterBank, count: int, seed: int) -> tuple[FilterBank, FilterBank, str]:
    """Divides a bank into filters to fit and filters to score."""
    networks = bank.networks
    if len(networks) > 1:
        held = networks[-min(count, len(networks) - 1) :]
        fitted, scored = bank.split_by_network(held)
        return fitted, scored.last_snapshots(), f"filters of networks {', '.join(map(str, held))}, last snapshot"
    rows = torch.randperm(len(bank), generator=_generator("held-out", seed=seed))
    tenth = max(len(bank) // 10, 1)
    return (
        bank[rows[tenth:].sort().values],
        bank[rows[:tenth].sort().values],
        "a random tenth of the one network's filters",
    )


def _score(
    prior: FilterPrior, bank: FilterBank, options: PriorFitOptions, generator: torch.Generator
) -> dict[str, Any]:
    """Mean held-out log density in nats per filter; the standard error is over networks where there are several."""
    chosen = bank.subsample(options.largest_score, generator)
    with torch.no_grad():
        values = prior.log_prob(chosen.filters, chosen.positions, options.score_samples, generator).double()
    means = torch.stack([values[chosen.network == network].mean() for network in chosen.networks])
    over_networks = len(means) > 1
    spread = means if over_networks else values
    # One value alone has no spread: its error is not known, and JSON has no NaN.
    error = {"standard_error": float(spread.std() / len(spread) ** 0.5)} if len(spread) > 1 else {}
    return {
        "mean": float(values.mean()),
        **error,
        "standard_error_over": "networks" if over_networks else "filters of one network",
        "bound": prior.is_bound,
        "samples": options.score_samples if prior.is_bound else 1,
        "scored": len(chosen),
    }


def _fit(
    options: PriorOptions, bank: FilterBank, largest: int, generator: torch.Generator
) -> tuple[FilterPrior, FitReport]:
    prior = build_prior(options)
    report = prior.fit(bank.subsample(largest, generator), generator)
    return prior, report


def fit_group(
    folder: Path,
    progress: ProgressFile,
    *,
    group: str,
    bank_path: Path,
    options: PriorFitOptions,
    norm_threshold: float,
    seed: int,
) -> None:
    """Fits every density to a group's filters and writes it with its held-out score.

    Raises:
        ModelError: there are too few filters.
    """
    bank = FilterBank.from_tensors(load_tensors(bank_path))
    fitted, held_out, description = _held_out(bank, options.held_out_networks, seed)
    above, _ = fitted.above_norm(norm_threshold)
    everything, _ = bank.above_norm(norm_threshold)
    refit = options.refit and len(bank.networks) > 1
    densities = {}
    not_scored: list[str] = []
    for position, (name, density) in enumerate(options.densities.items()):
        prior, report = _fit(density, above, options.largest_fit, _generator(group, name, seed=seed))
        scorable = not centred_on_network(density) or len(bank.networks) == 1
        scored = _score(prior, held_out, options, _generator(group, name, "score", seed=seed)) if scorable else {}
        if refit:
            prior, report = _fit(density, everything, options.largest_fit, _generator(group, name, "refit", seed=seed))
        if scorable:
            given = {"fitted_filters": report.filters_used, "given_filters": report.filters_given}
            densities[name] = scored | given
        else:
            not_scored.append(name)
        save_tensors(folder / prior_name(name), prior.state_dict(), {"group": group, "density": name})
        progress((position + 1) / len(options.densities))
    scores = {
        "group": group,
        "fitted_on": len(above),
        "held_out": len(held_out),
        "held_out_networks": description,
        "refitted_on_all": refit,
        "densities": densities,
        # Centred on the positions of one network, whose channels are permuted in any other.
        "not_scored": not_scored,
    }
    write_json(folder / "scores.json", scores)


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each group of layers.

    Raises:
        WorkspaceError: a stage before is not done.
    """
    groups, _ = collect_filters.source_groups(read_plan(config, workspace))
    execution = resources.execution(config)
    planned = []
    for group, layers in groups.items():
        marker = require_done(workspace, collect_filters.STAGE, group)
        recipe = {
            "bank": marker["digest"],
            "options": config.priors.model_dump(mode="json"),
            "norm_threshold": config.filters.norm_threshold,
            "seed": config.seed,
            "threads": execution.threads,
            "version": 1,
        }
        arguments = {
            "group": group,
            "bank_path": workspace.unit_folder(collect_filters.STAGE, group) / collect_filters.BANK,
            "options": config.priors,
            "norm_threshold": config.filters.norm_threshold,
            "seed": config.seed,
        }
        size = float(sum(layer.count for layer in layers))
        planned.append(Unit(STAGE, group, recipe, fit_group, arguments, size))
    return planned


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Fits the densities of every group.

    Raises:
        WorkspaceError: filters are not collected.
    """
    complete(STAGE, run_stage(STAGE, units(config, workspace, resources), workspace, resources.execution(config)))
