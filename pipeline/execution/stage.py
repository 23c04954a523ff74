"""Running the units of a stage, and reporting failures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from data.errors import GraftError
from pipeline.execution.ledger import Ledger
from pipeline.execution.processes import rank
from pipeline.execution.provenance import record_stage
from pipeline.execution.stopping import StopRequestedError
from pipeline.execution.unit import Outcome, Unit
from pipeline.execution.units import Execution, StageRun, run_units
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

_SHOWN = 5


class StageError(GraftError):
    """Some units of a stage failed; the others are done and kept."""


def run_stage(stage: str, units: Sequence[Unit], workspace: Workspace, execution: Execution) -> StageRun:
    """Runs the units and writes ledger and provenance; does not raise when units fail."""
    # Processes that train together have one ledger.
    run = run_units(stage, units, workspace, execution, Ledger(workspace, stage) if rank() == 0 else None)
    if rank() == 0:
        record_stage(workspace, stage, units, run)
    for failure in run.failures:
        if failure.trace:
            logger.debug("%s %s\n%s", stage, failure.key, failure.trace)
    return run


def run_in_order(
    kinds: Sequence[Sequence[Unit]],
    workspace: Workspace,
    execution: Execution,
    failed: set[tuple[str, str]] | None = None,
) -> StageRun:
    """Runs the units of a stage with several kinds, one kind after the other, and returns all of it as one run.

    Units that need something that failed are left out, so that a reason is reported once. A kind may come again, with
    the units that it had before: what these came to counts once.

    Args:
        kinds: the units.
        workspace: of the study.
        execution: how they are run.
        failed: stage and key of units that are left out, with all that need them; receives those that do not end well.
    """
    missing = set() if failed is None else failed
    runs: list[StageRun] = []
    outcomes: dict[tuple[str, str], Outcome] = {}
    for units in kinds:
        impossible = {unit.name for unit in units if unit.name in missing or missing & set(unit.needs)}
        possible = [unit for unit in units if unit.name not in impossible]
        missing |= impossible
        if not possible:
            continue
        runs.append(run_stage(possible[0].stage, possible, workspace, execution))
        for outcome in runs[-1].outcomes:
            outcomes.setdefault((possible[0].stage, outcome.key), outcome)
        unfinished = {outcome.key for outcome in runs[-1].outcomes if outcome.state in {"failed", "stopped"}}
        missing |= {unit.name for unit in possible if unit.key in unfinished}
        if runs[-1].count("stopped"):
            break
    return StageRun(tuple(outcomes.values()), sum(run.wall_seconds for run in runs))


def complete(stage: str, run: StageRun) -> None:
    """Ends a stage.

    Raises:
        StageError: units failed; names them with their reasons.
        StopRequestedError: the command was asked to stop before all units were done.
    """
    failures = run.failures
    if stopped := run.count("stopped"):
        raise StopRequestedError(
            f"{stage}: stopped on request with {stopped} of {len(run.outcomes)} units unfinished",
            fix="run the same command again: it continues where it stopped",
        )
    if not failures:
        return
    if len(run.outcomes) == 1:
        raise StageError(failures[0].message.rstrip("."))
    # A full disk is one reason, however many units it stops.
    alike: dict[str, list[str]] = {}
    for failure in failures:
        alike.setdefault(failure.message.rstrip("."), []).append(failure.key)
    shown = list(alike.items())[:_SHOWN]
    reasons = "; ".join(f"{_named(keys)}: {message}" for message, keys in shown)
    hidden = len(failures) - sum(len(keys) for _, keys in shown)
    more = f"; and {hidden} more" if hidden else ""
    others = len(run.outcomes) - len(failures)
    kept = f"; the other {others} {'is' if others == 1 else 'are'} kept" if others else ""
    raise StageError(
        f"{stage}: {len(failures)} of {len(run.outcomes)} units failed ({reasons}{more}){kept}",
        fix=f"correct the cause and run `graft {stage}` again (`--debug` shows tracebacks)",
    )


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
