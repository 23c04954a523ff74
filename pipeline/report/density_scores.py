"""Held-out scores of filter priors, from `compare-priors/GROUP/scores.json`, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data.stored_record import record_if_there
from models.priors.factory import PriorOptions
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_options import FilterVAEOptions
from pipeline.priors.scores_record import ScoresRecord
from pipeline.report.filter_files import group_folders
from pipeline.storage.prior_files import COMPARISON, SCORES


def read_scores(root: Path, options: Mapping[str, PriorOptions]) -> list[ScoresRecord]:
    """Reads the scores of all groups of a workspace; groups without any are left out.

    Args:
        root: the workspace.
        options: density → its settings, which tell which density is the full-covariance Gaussian: it has no difference
            to itself.

    Raises:
        WorkspaceError: a file is damaged.
    """
    records = (record_if_there(folder / SCORES, ScoresRecord) for folder in group_folders(root, COMPARISON))
    return [
        record.without_difference_of(reference_density(options, list(record.densities)))
        for record in records
        if record is not None
    ]


def reference_density(densities: Mapping[str, PriorOptions], names: Sequence[str]) -> str | None:
    """Names the pooled full-covariance Gaussian among densities: by its options, else by its usual name."""
    usual = "gaussian_full" if "gaussian_full" in names else None
    return next((name for name in names if _is_reference(densities.get(name))), usual)


def _is_reference(options: PriorOptions | None) -> bool:
    if not isinstance(options, GaussianOptions) or options.zero_mean:
        return False
    return (options.covariance, options.centre, options.scaling) == (Covariance.FULL, Centre.POOLED, Scaling.NONE)


def vae_densities(densities: Mapping[str, PriorOptions], names: Sequence[str]) -> list[str]:
    """Names those densities that are variational auto-encoders: by their options, else by their usual name."""
    return [
        name
        for name in names
        if isinstance(densities.get(name), FilterVAEOptions) or (name == "vae" and name not in densities)
    ]
