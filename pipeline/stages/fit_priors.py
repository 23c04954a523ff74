"""fit-priors: densities over the filters of every group, scored on the filters of held-out networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.priors.filter_vae import FilterVAE
from pipeline.config.study import StudyConfig
from pipeline.progress import ProgressFile
from pipeline.stages import collect_filters
from pipeline.stages.density_choice import ChosenDensity, choose, resolve_densities
from pipeline.stages.earlier_study import EarlierDensity, earlier_densities
from pipeline.stages.filter_options import PriorFitOptions
from pipeline.stages.group_fit import Fitted, GroupFit, Values, describe
from pipeline.stages.held_out_scores import NetworkValues, difference, estimate
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.stages.study_plan import read_plan
from pipeline.storage.atomic import write_json
from pipeline.storage.stored_bank import StoredBank
from pipeline.storage.tensors import save_tensors
from pipeline.storage.units import Unit, require_done
from pipeline.storage.workspace import Workspace

STAGE = "fit-priors"


def prior_name(density: str) -> str:
    """File name of a fitted density."""
    return f"{density}.safetensors"


def chosen_densities(
    workspace: Workspace, groups: Iterable[str], prior: str, config: StudyConfig
) -> dict[str, ChosenDensity]:
    """Tells which fitted density an arm uses in every group of layers.

    Args:
        workspace: of the study.
        groups: names of the groups.
        prior: name of a density of the study, or `auto`.
        config: of the study.

    Returns:
        Group → name, options and file of the density.

    Raises:
        WorkspaceError: the densities of a group are not fitted, or `auto` has nothing to choose among.
    """
    fitted = {}
    for group in groups:
        require_done(workspace, STAGE, group)
        fitted[group] = workspace.unit_folder(STAGE, group)
    return resolve_densities(fitted, prior, config.priors.densities)


def fit_group(
    folder: Path,
    progress: ProgressFile,
    *,
    group: str,
    bank_path: Path,
    options: PriorFitOptions,
    norm_threshold: float,
    earlier: Mapping[str, EarlierDensity],
    seed: int,
) -> None:
    """Fits every density to a group's filters and writes it with its held-out score.

    Raises:
        ModelError: there are too few filters.
    """
    fit = GroupFit(group, StoredBank(bank_path), options, norm_threshold, earlier, seed, progress)
    values: Values = {name: {} for name in fit.scorable}
    reference: dict[int, Any] = {}
    fitted: dict[str, Fitted] = {}
    fitted_on = 0
    for number, drawn in enumerate(fit.rounds()):
        of_round = {}
        for name in fit.scorable:
            fitted[name] = fit.fit(name, drawn.fitted.bank, "round", number)
            of_round[name] = fit.values(name, fitted[name], drawn.scored, number)
            values[name].update(of_round[name])
        reference.update(fit.reference_values(drawn, of_round))
        fitted_on = fitted_on or drawn.fitted.kept
        last = drawn.fitted  # there is always one round
    if fit.refit:
        last = fit.draw(set(fit.bank.networks), "refit")
        for name in fit.scorable:
            fitted[name] = fit.fit(name, last.bank, "refit")
    not_scored = {}
    for name in fit.at_positions:
        fitted[name], network = fit.fit_at_positions(name, last.bank)
        not_scored[name] = _why_not_scored(network)
    for name, density in fitted.items():
        save_tensors(folder / prior_name(name), density.prior.state_dict(), {"group": group, "density": name})
    about = _densities(fit, values, reference, fitted, last.kept)
    scores = {
        "group": group,
        "fitted_on": fitted_on,
        "held_out": sum(len(of_network) for of_network in reference.values()),
        **describe(fit),
        "refitted_on_all": fit.refit,
        "largest_fit": options.largest_fit,
        "largest_score": options.largest_score,
        "densities": about,
        "auto": choose(about),
        "not_scored": not_scored,
    }
    write_json(folder / "scores.json", scores)


def _why_not_scored(network: int) -> str:
    return (
        f"centred on the filters of source network {network}, position by position, and the channels of other networks "
        "are permuted; so it is no candidate for `auto`"
    )


def _densities(
    fit: GroupFit,
    values: Values,
    reference: NetworkValues,
    fitted: Mapping[str, Fitted],
    given: int,
) -> dict[str, dict[str, Any]]:
    """The scores of every density, and how it was fitted."""
    estimates = {name: estimate(of_density) for name, of_density in values.items()}
    best = max(estimates, key=lambda name: float(estimates[name]["mean"]), default=None)
    about = {}
    for name, of_density in values.items():
        prior, report = fitted[name].prior, fitted[name].report
        about[name] = {
            **estimates[name],
            "network_means": {str(n): float(v.mean()) for n, v in sorted(of_density.items())},
            "difference_to_gaussian_full": difference(of_density, reference),
            "difference_to_best": difference(of_density, values[best]) if best is not None else None,
            "parameters": prior.free_parameters(),
            "bound": prior.is_bound,
            "samples": fit.options.score_samples if prior.is_bound else 1,
            "scored": sum(len(v) for v in of_density.values()),
            "fitted_filters": report.filters_used,
            "given_filters": given,
            "steps": report.steps,
            **({"source_sets": int(prior.sets)} if isinstance(prior, FilterVAE) and name in fit.earlier else {}),
        }
    return about


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each group of layers.

    Raises:
        WorkspaceError: a stage before is not done, or the study to update priors from is missing.
        ConfigError: there is nothing to update, or the earlier study has other settings.
        ModelError: the earlier study's layers are others.
    """
    groups, _ = collect_filters.source_groups(read_plan(config, workspace))
    execution = resources.execution(config)
    planned = []
    for group, layers in groups.items():
        marker = require_done(workspace, collect_filters.STAGE, group)
        earlier = earlier_densities(config, group, layers)
        recipe = {
            "bank": marker["digest"],
            # Not the path of an earlier study: a workspace that moved is the same.
            "options": config.priors.model_dump(mode="json", exclude={"update_from"}),
            "update_from": {name: density.digest for name, density in earlier.items()},
            "norm_threshold": config.filters.norm_threshold,
            "seed": config.seed,
            "threads": execution.threads,
            "version": 2,
        }
        arguments = {
            "group": group,
            "bank_path": workspace.unit_folder(collect_filters.STAGE, group) / collect_filters.BANK,
            "options": config.priors,
            "norm_threshold": config.filters.norm_threshold,
            "earlier": earlier,
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
