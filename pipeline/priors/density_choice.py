"""`auto`: the simplest density that is as good as the best, group by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import WorkspaceError
from data.stored_record import NewerFormatError, read_record
from models.priors.factory import PriorOptions
from pipeline.evaluation.statistics import CLEAR_ERRORS
from pipeline.priors.filter_options import AUTO
from pipeline.priors.scores_record import ScoresRecord

RULE = (
    "the density with the fewest free parameters whose held-out mean is within two standard errors (of the paired "
    "difference) of the best one"
)


@dataclass(frozen=True)
class ChosenDensity:
    """The density that an arm uses in one group: its settings, the file of its state, and the digest of its fit."""

    options: PriorOptions
    path: Path
    digest: str


def choose(densities: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Chooses among scored densities.

    If the standard error of a difference is not known, only the best density is good enough.

    Args:
        densities: name → `mean`, `parameters` (free parameters of the density) and `difference_to_best`.

    Returns:
        The choice for `scores.json`: the density, those that were good enough, all from simple to complex, the rule;
        `None` if nothing was scored.
    """
    if not densities:
        return None

    def simplicity(name: str) -> tuple[int, float]:
        return int(densities[name]["parameters"]), -float(densities[name]["mean"])

    order = sorted(densities, key=simplicity)
    best = max(densities, key=lambda name: float(densities[name]["mean"]))
    good = [name for name in order if name == best or _as_good(densities[name]["difference_to_best"])]
    return {
        "density": good[0],
        "best": best,
        "good_enough": good,
        "by_parameters": {name: int(densities[name]["parameters"]) for name in order},
        "rule": RULE,
    }


def _as_good(to_best: Mapping[str, Any]) -> bool:
    return -float(to_best["mean"]) <= CLEAR_ERRORS * float(to_best.get("standard_error", 0.0))


def resolve_densities(scores: Mapping[str, Path], name: str, densities: Mapping[str, PriorOptions]) -> dict[str, str]:
    """Resolves an arm's prior for every group.

    Args:
        scores: group → file of its scores, which `auto` reads.
        name: of a density, or `auto`.
        densities: name → options, as in the study's `priors.densities`.

    Returns:
        Group → name of the density.

    Raises:
        WorkspaceError: the scores of a group are missing, damaged, or choose a density that the study does not have.
    """
    names = {group: name if name != AUTO else _choice(path) for group, path in scores.items()}
    for chosen in names.values():
        if chosen not in densities:
            raise WorkspaceError(
                f"the scores choose the density {chosen!r}",
                expected=f"one of {', '.join(densities)}",
                fix="run `graft fit-priors CONFIG` with this configuration",
            )
    return names


def _choice(path: Path) -> str:
    cause: WorkspaceError | None = None
    auto = None
    try:
        auto = read_record(path, ScoresRecord).auto
    except NewerFormatError:
        raise
    except WorkspaceError as error:
        cause = error
    if auto is None:
        raise WorkspaceError(
            f"{path}: does not state which density `auto` stands for",
            expected="held-out scores of at least one density that is not centred on one network's positions",
            fix="run `graft fit-priors CONFIG`, or name a density as the arm's prior",
        ) from cause
    return auto.density
