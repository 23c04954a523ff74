"""The units of `fit-priors`: each density of each group is fitted and scored separately, then all are compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data.stored_record import read_record
from models.priors.factory import load_prior
from models.priors.filter_vae import FilterVAE
from models.priors.prior import FilterPrior
from models.priors.vae_density import VAEDensity
from models.priors.vae_options import AUTO_LATENT
from pipeline.execution.progress import ProgressFile
from pipeline.priors.density_choice import choose
from pipeline.priors.group_fit import GroupFit, describe, full_gaussian
from pipeline.priors.held_out_scores import NetworkValues, difference, estimate
from pipeline.priors.scores_record import FitRecord, ScoresRecord
from pipeline.storage.atomic import write_record
from pipeline.storage.prior_files import DENSITY, FIT, SCORES, VALUES
from pipeline.storage.tensors import load_tensors, save_tensors


def fit_density(folder: Path, progress: ProgressFile, *, group: GroupFit, density: str) -> None:
    """Fits a density for the arms.

    Raises:
        ModelError: there are too few filters, or the network that it is centred on does not exist.
    """
    (prior, report), drawn, network = group.fit_for_arms(density, lambda step, total: progress(step / total))
    save_tensors(folder / DENSITY, prior.state_dict(), {"group": group.name, "density": density})
    record = FitRecord(
        parameters=prior.free_parameters(),
        bound=prior.is_bound,
        fitted_filters=report.filters_used,
        given_filters=drawn.kept,
        steps=report.steps,
        network=network,
        **_chosen_latent(prior),
        **({"source_sets": int(prior.sets)} if density in group.earlier and isinstance(prior, FilterVAE) else {}),
    )
    write_record(folder / FIT, record)


def _chosen_latent(prior: FilterPrior) -> dict[str, int]:
    """The size of the latent of a VAE, or of one in a part of the density, where it was left to the filters."""
    vae = next((part for part in prior.modules() if isinstance(part, VAEDensity)), None)
    return {} if vae is None or vae.options.latent != AUTO_LATENT else {"latent": vae.latent}


def score_density(folder: Path, progress: ProgressFile, *, group: GroupFit, density: str, fitted: Path | None) -> None:
    """Scores a density on filters of networks that it was not fitted to.

    It scores the fit in the folder `fitted`; if that is `None`, it makes a fit for each round.

    Raises:
        ModelError: there are too few filters.
    """
    rounds = max(len(group.folds), 1)
    values: dict[int, torch.Tensor] = {}
    for number, drawn in enumerate(group.rounds(density)):

        def share(step: int, total: int, number: int = number) -> None:
            progress((number + step / total) / rounds)

        if fitted is None:
            prior, _ = group.fit(density, drawn.fitted.bank, share, "round", number)
        else:
            prior = load_prior(group.options.densities[density], load_tensors(fitted / DENSITY))
        values |= group.values(density, prior, drawn.scored, number)
    save_tensors(folder / VALUES, {str(network): own for network, own in values.items()})


def compare_densities(
    folder: Path,
    progress: ProgressFile,
    *,
    group: GroupFit,
    fits: Mapping[str, Path],
    scores: Mapping[str, Path],
) -> None:
    """Writes the scores of all densities, the differences between them, and the choice of `auto`.

    Densities centred on one network have a fit but no score.
    """
    values = {name: read_values(scored) for name, scored in scores.items()}
    reference = full_gaussian(group.options.scorable)
    compared = values[reference] if reference is not None else group.reference_values()
    about = _densities(group, values, compared, {name: read_fit(fits[name]) for name in scores})
    choosable = {name: about[name] for name in group.options.choosable if name in about}
    unscored = [name for name in group.options.densities if name not in scores]
    record = ScoresRecord.model_validate(
        {
            "group": group.name,
            "fitted_on": next(group.rounds()).fitted.kept,
            "held_out": sum(len(of_network) for of_network in compared.values()),
            **describe(group),
            **_kept(group),
            "refitted_on_all": group.refit,
            "largest_fit": group.options.largest_fit,
            "largest_score": group.options.largest_score,
            "densities": about,
            "auto": choose(choosable),
            "not_scored": {name: _why_not_scored(read_fit(fits[name]).network) for name in unscored},
        }
    )
    write_record(folder / SCORES, record)


def _kept(fit: GroupFit) -> dict[str, Any]:
    """The number of filters that the norm threshold keeps for the fits."""
    kept = fit.bank.count_above(fit.norm_threshold)
    share = kept / len(fit.bank) if len(fit.bank) else 1.0
    return {"norm_threshold": fit.norm_threshold, "filters": len(fit.bank), "kept": kept, "share_kept": share}


def read_values(folder: Path) -> dict[int, torch.Tensor]:
    """Reads the scores of a density: network → log density of each of its scored filters."""
    stored = load_tensors(folder / VALUES)
    return {network: stored[str(network)] for network in sorted(map(int, stored))}


def read_fit(folder: Path) -> FitRecord:
    """Reads the facts of a fit.

    Raises:
        WorkspaceError: the file is missing or damaged.
    """
    return read_record(folder / FIT, FitRecord)


def _why_not_scored(network: int | None) -> str:
    return (
        f"centred on the filters of source network {network}, position by position; the channels of other networks are "
        "permuted, so it is not a candidate for `auto`"
    )


def _densities(
    fit: GroupFit,
    values: Mapping[str, NetworkValues],
    reference: NetworkValues,
    fits: Mapping[str, FitRecord],
) -> dict[str, dict[str, Any]]:
    """The scores of every density, with the facts of its fit."""
    estimates = {name: estimate(of_density) for name, of_density in values.items()}
    # Densities that know positions, or the start of each filter, are scored beside those that `auto` chooses among.
    comparable = [name for name in fit.options.choosable if name in estimates] or list(estimates)
    best = max(comparable, key=lambda name: float(estimates[name]["mean"]), default=None)
    about = {}
    for name, of_density in values.items():
        about[name] = {
            **estimates[name],
            "network_means": {str(n): float(v.mean()) for n, v in sorted(of_density.items())},
            "difference_to_gaussian_full": difference(of_density, reference),
            "difference_to_best": difference(of_density, values[best]) if best is not None else None,
            "samples": fit.options.score_samples if fits[name].bound else 1,
            "scored": sum(len(v) for v in of_density.values()),
            **fits[name].model_dump(exclude={"network"}, exclude_unset=True),
        }
    return about
