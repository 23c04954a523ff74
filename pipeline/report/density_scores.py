"""Held-out scores of filter priors, from `compare-priors/GROUP/scores.json`, and differences to the full Gaussian."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import WorkspaceError
from models.priors.factory import PriorOptions
from models.priors.gaussian import Centre, GaussianOptions
from models.priors.standardisation import Covariance, Scaling
from models.priors.vae_options import FilterVAEOptions
from pipeline.evaluation.statistics import CLEAR_ERRORS
from pipeline.report.filter_files import group_folders
from pipeline.report.study_files import nested, read_mapping
from pipeline.storage.prior_files import COMPARISON, SCORES


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, in nats per filter; the error is None where one value alone gives none."""

    mean: float
    error: float | None

    @property
    def clear(self) -> bool:
        """Whether it is above zero by more than two standard errors."""
        return self.error is not None and self.mean > CLEAR_ERRORS * self.error


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
    """

    group: str
    fitted_on: int
    held_out: int
    networks: str
    densities: Mapping[str, DensityScore]
    not_scored: Mapping[str, str]
    auto: str | None

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
    found = []
    for folder in group_folders(root, COMPARISON):
        path = folder / SCORES
        if raw := read_mapping(path):
            try:
                found.append(_group(folder.name, raw, options))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise WorkspaceError(
                    f"{path}: cannot be read ({error!r})",
                    expected="the scores of a group",
                    fix="delete its folder and run 'graft fit-priors' again",
                ) from error
    return found


def read_kept(root: Path, group: str) -> dict[str, Any]:
    """Reads how many filters of a group the norm threshold of the fits keeps; nothing where none was fitted."""
    raw = read_mapping(root / COMPARISON / group / SCORES)
    return {key: raw[key] for key in ("norm_threshold", "kept", "share_kept") if key in raw}


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


def _group(name: str, raw: Mapping[str, Any], options: Mapping[str, PriorOptions]) -> GroupScores:
    densities: Mapping[str, Mapping[str, Any]] = raw.get("densities") or {}
    reference = reference_density(options, list(densities))
    skipped = raw.get("not_scored") or {}
    reasons = skipped if isinstance(skipped, Mapping) else dict.fromkeys(skipped, "the scores do not say why")
    return GroupScores(
        group=str(raw.get("group", name)),
        fitted_on=int(raw.get("fitted_on", 0)),
        held_out=int(raw.get("held_out", 0)),
        networks=str(raw.get("held_out_networks", "")),
        densities={density: _score(about, density == reference) for density, about in densities.items()},
        not_scored={str(k): str(v) for k, v in reasons.items()},
        auto=nested(raw, "auto", "density"),
    )


def _score(about: Mapping[str, Any], is_reference: bool) -> DensityScore:
    to_reference = about.get("difference_to_gaussian_full")
    return DensityScore(
        nats=_estimate(about),
        bound=bool(about.get("bound")),
        over_networks=about.get("standard_error_over", "networks") == "networks",
        difference=None if is_reference or to_reference is None else _estimate(to_reference),
    )


def _estimate(about: Mapping[str, Any]) -> Estimate:
    return Estimate(float(about["mean"]), _optional(about.get("standard_error")))


def _optional(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
