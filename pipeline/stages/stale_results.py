"""Finds results of a workspace that were not made with the current configuration, and how they differ."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from data.errors import GraftError, WorkspaceError
from pipeline.config.study import StudyConfig
from pipeline.evaluation.evaluated_models import read_evaluated
from pipeline.evaluation.study_results import SUMMARY
from pipeline.execution.unit import Unit, read_marker
from pipeline.stages.cohorts import datasets_at_hand
from pipeline.stages.needed_stages import absent_stages, needless_stages
from pipeline.stages.resources import Resources
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

COMPARED = tuple(stage for stage in Stage if stage is not Stage.REPORT)
"""Stages whose results can be compared with a configuration, in their order."""
_OF_RAW_SCANS = (Stage.CHECK, Stage.PREPROCESS)
"""Those that need the raw scans for the comparison; the workspace may have been moved to a machine without them."""
_SHOWN = 3
_LONG = 40
"""Longer values, such as digests, are not shown."""


@dataclass(frozen=True)
class StaleResult:
    """A result that is missing or was made with other settings or inputs.

    Attributes:
        stage: that makes it.
        kind: folder of its kind in the workspace.
        key: of its unit.
        missing: whether it is missing.
        differences: between settings and inputs; empty if these were not recorded.
    """

    stage: str
    kind: str
    key: str
    missing: bool
    differences: tuple[str, ...] = ()

    def why(self, several: bool = False) -> str:
        """States what is wrong with it, or with several similar results."""
        if self.missing:
            return "are missing" if several else "is missing"
        verb = "were" if several else "was"
        if not self.differences:
            return f"{verb} made with other settings or inputs"
        more = f" and {len(self.differences) - _SHOWN} more" if len(self.differences) > _SHOWN else ""
        return f"{verb} made with other settings or inputs ({'; '.join(self.differences[:_SHOWN])}{more})"


def stage_module(stage: Stage) -> ModuleType:
    """Imports a stage; separately, so that a stage that only trains needs neither SimpleITK nor nilearn."""
    return importlib.import_module(f"pipeline.stages.{stage.value.replace('-', '_')}")


def stale_results(
    stages: Sequence[Stage], config: StudyConfig, workspace: Workspace, resources: Resources
) -> Iterator[StaleResult]:
    """Yields the results of stages that are missing or were made with another configuration or other inputs.

    Raises:
        GraftError: something that a stage needs is missing.
    """
    at_hand, absent = datasets_at_hand(config, workspace), absent_stages(config)
    for stage in stages:
        if stage in absent:
            continue
        of_raw_scans = stage in _OF_RAW_SCANS
        if of_raw_scans and not at_hand:
            continue
        for unit in stage_module(stage).units(config, workspace, resources):
            for found in compared(stage, unit, workspace):
                # A case that could not be preprocessed stops only units that need it.
                if not (found.missing and of_raw_scans):
                    yield found


def refuse_stale(first: Stage, config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Refuses to build on results of another configuration, before a stage runs.

    The report is not refused: it shows the existing results and names what is missing or stale.

    Raises:
        WorkspaceError: a result of an earlier stage is missing, or was made with other settings or inputs.
    """
    if first in _OF_RAW_SCANS or first not in COMPARED:
        return
    # A command for the filters or priors needs them, whatever the arms use.
    needless = {} if first in (Stage.COLLECT_FILTERS, Stage.FIT_PRIORS) else needless_stages(config)
    before = [stage for stage in COMPARED[: COMPARED.index(first)] if stage not in needless]
    for stale in stale_results(before, config, workspace, resources):
        folder = workspace.unit_folder(stale.kind, stale.key)
        raise WorkspaceError(
            f"{folder}: this result of `{stale.stage}` {stale.why()}",
            expected="results of this configuration",
            fix=f"run `graft {stale.stage} CONFIG`, or `graft run CONFIG` for all stages",
        )


def stale_for_report(config: StudyConfig, workspace: Workspace, resources: Resources) -> tuple[str, ...]:
    """Describes existing results that were made with other settings or inputs, stage by stage.

    Stages that cannot be compared because something is missing are left out: the report names what is missing.
    """
    found: list[str] = []
    for stage in COMPARED:
        try:
            stale = [own for own in stale_results([stage], config, workspace, resources) if not own.missing]
        except GraftError:
            continue
        found += sentences(stale)
    return (*found, *_stale_tables(config, workspace, resources))


def sentences(stale: Sequence[StaleResult]) -> Iterator[str]:
    """One sentence for all results of a stage with the same differences."""
    alike: dict[str, list[StaleResult]] = {}
    for own in stale:
        alike.setdefault(own.why(), []).append(own)
    for results in alike.values():
        keys = ", ".join(own.key for own in results[:_SHOWN])
        more = f" and {len(results) - _SHOWN} more" if len(results) > _SHOWN else ""
        yield f"{results[0].stage} of {keys}{more} {results[0].why(len(results) > 1)}"


def _stale_tables(config: StudyConfig, workspace: Workspace, resources: Resources) -> Iterator[str]:
    """Reports whether the tables are based on other evaluations than those of the configuration."""
    if not (workspace.results / SUMMARY).is_file():
        return
    evaluate = stage_module(Stage.EVALUATE)
    try:
        recorded = read_evaluated(workspace.results)
        now = evaluate.evaluated_models(config, workspace, evaluate.units(config, workspace, resources))
    except GraftError:
        return
    if recorded is None:
        yield "results: the tables do not state their models; `graft evaluate CONFIG` writes them again"
        return
    before, after = (models.model_dump(mode="json")["settings"] or {} for models in (recorded, now))
    differences = [*_differences(before, after)]
    differences += [f"`{key}` is not among them" for key in now.units if key not in recorded.units]
    differences += [f"`{key}` is not in the configuration" for key in recorded.units if key not in now.units]
    both = [key for key in now.units if key in recorded.units]
    differences += [f"`{key}` differs" for key in both if recorded.units[key] != now.units[key]]
    if differences:
        stale = StaleResult("results", "results", "the tables", missing=False, differences=tuple(differences))
        yield f"results: the tables {stale.why(several=True)}"


def compared(stage: Stage, unit: Unit, workspace: Workspace) -> Iterator[StaleResult]:
    """Yields how the result of a unit differs from what it should be, if it does."""
    marker = read_marker(workspace.unit_folder(unit.stage, unit.key))
    if marker is None:
        yield StaleResult(stage, unit.stage, unit.key, missing=True)
    elif marker.get("digest") != unit.digest:
        recorded, wanted = marker.get("recipe"), json.loads(json.dumps(unit.recipe))
        differences = tuple(_differences(recorded, wanted)) if recorded else ()
        yield StaleResult(stage, unit.stage, unit.key, missing=False, differences=differences)


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Describes the differences between two recipes, key by key."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        plain = all(isinstance(v, str | int | float | bool | None) and len(str(v)) < _LONG for v in (before, now))
        yield f"`{key}`: {_shown(before)}, now {_shown(now)}" if plain else f"`{key}` differs"


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
