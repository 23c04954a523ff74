"""Held-out scores of filter priors, from `compare-priors/GROUP/scores.json`, and differences to the full Gaussian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.stored_record import record_if_there
from models.priors.factory import PriorOptions
from models.priors.gaussian import Centre, GaussianOptions
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_options import FilterVAEOptions
from pipeline.priors.scores_record import NETWORKS, DensityRecord, Estimate, ScoresRecord
from pipeline.report.filter_files import group_folders
from pipeline.storage.prior_files import COMPARISON, SCORES


@dataclass(frozen=True)
class DensityScore:
    """The held-out score of one density on one group.

    Attributes:
        nats: log density per filter.
        bound: whether it is a lower bound.
        over_networks: whether the error is over networks, and not over the filters of a single one.
        difference: paired difference to the full-covariance Gaussian; None for itself, or where the file has none.
    """

    nats: Estimate
    bound: bool
    over_networks: bool
    difference: Estimate | None


@dataclass(frozen=True)
class KeptFilters:
    """What the norm threshold of the fits keeps of a group.

    Attributes:
        threshold: least norm.
        count: filters above it.
        share: their share.
    """

    threshold: float
    count: int
    share: float


@dataclass(frozen=True)
class GroupScores:
    """Scores of all densities on the filters of one group.

    Attributes:
        group: its name.
        fitted_on: filters fitted to.
        held_out: filters scored.
        networks: which networks were held out, in words.
        densities: scores by name.
        not_scored: name → reason.
        auto: the density that `auto` chose, if it was asked.
        kept: what the norm threshold of the fits keeps.
    """

    group: str
    fitted_on: int
    held_out: int
    networks: str
    densities: Mapping[str, DensityScore]
    not_scored: Mapping[str, str]
    auto: str | None
    kept: KeptFilters

    @property
    def best(self) -> str | None:
        """Name of the density with the highest mean."""
        return max(self.densities, key=lambda name: self.densities[name].nats.mean, default=None)


def read_scores(root: Path, options: Mapping[str, PriorOptions]) -> list[GroupScores]:
    """Reads the scores of all groups of a workspace; groups without any are left out.

    Args:
        root: the workspace.
        options: density → its settings, which tell which density is the full-covariance Gaussian.

    Raises:
        WorkspaceError: a file is damaged.
    """
    records = (record_if_there(folder / SCORES, ScoresRecord) for folder in group_folders(root, COMPARISON))
    return [_group(record, options) for record in records if record is not None]


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


def _group(scores: ScoresRecord, options: Mapping[str, PriorOptions]) -> GroupScores:
    reference = reference_density(options, list(scores.densities))
    return GroupScores(
        group=scores.group,
        fitted_on=scores.fitted_on,
        held_out=scores.held_out,
        networks=scores.held_out_networks,
        densities={name: _score(own, name == reference) for name, own in scores.densities.items()},
        not_scored=scores.not_scored,
        auto=scores.auto.density if scores.auto else None,
        kept=KeptFilters(scores.norm_threshold, scores.kept, scores.share_kept),
    )


def _score(own: DensityRecord, is_reference: bool) -> DensityScore:
    return DensityScore(
        nats=own,
        bound=own.bound,
        over_networks=own.standard_error_over == NETWORKS,
        difference=None if is_reference else own.difference_to_gaussian_full,
    )
