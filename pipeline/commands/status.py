"""`graft status`: how far a workspace is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.shared_options import SharedOptions, with_shared_options

if TYPE_CHECKING:
    from pipeline.execution.study_status import KindStatus, StudyStatus, UnitStatus

_SHOWN = 5
_LOG_LINES = 3


@with_shared_options("debug")
def status(
    options: SharedOptions,
    workspace: Annotated[Path, typer.Argument(metavar="WORKSPACE", help="Folder of a study.")],
) -> None:
    """Show how far a study is. Units by kind and state, jobs, failures, time left."""
    from data.errors import WorkspaceError
    from pipeline.execution.ledger import UNITS
    from pipeline.execution.study_status import study_status

    if not (workspace / UNITS).is_dir():
        raise WorkspaceError(
            f"{workspace}: no command has run units here",
            expected="the workspace of a study, such as workspaces/demo",
            fix="name one, or start with `graft run CONFIG`",
        )
    found = study_status(workspace)
    typer.echo(_table(found))
    for line in (*_command(found, workspace), *_running(found), *_lost(found), *_slowest(found), *_failed(found)):
        typer.echo(line)


def _table(found: StudyStatus) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from data.plain_number import plain_duration
    from pipeline.execution.study_status import UnitState

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("units of")
    for title in ("all", *UnitState, "time left"):
        table.add_column(title, justify="right")
    for kind in found.kinds:
        counts = kind.counts
        left = "" if kind.seconds_left is None else plain_duration(kind.seconds_left)
        numbers = [str(counts[state]) if counts[state] else "" for state in UnitState]
        table.add_row(kind.kind, str(len(kind.units)), *numbers, left)
    # Where nobody looks at it, lines are not broken.
    console = Console(width=None if os.isatty(1) else 120, no_color=True, highlight=False)
    with console.capture() as text:
        console.print(table)
    return "\n".join(line.rstrip() for line in text.get().strip("\n").splitlines())


def _command(found: StudyStatus, workspace: Path) -> list[str]:
    from pipeline.execution.study_status import UnitState
    from pipeline.storage.file_names import INDEX
    from pipeline.storage.stage_names import Stage

    if found.command is not None:
        host, process = found.command
        return ["", f"Process {process} on {host} is working here."]
    if found.finished:
        return ["", f"The study is finished; its report is {workspace / Stage.REPORT / INDEX}."]
    if not _in_state(found, UnitState.RUNNING, UnitState.QUEUED):
        return ["", "No command is working here; `graft run CONFIG` continues."]
    if found.unasked:
        return [
            "",
            f"No command is working here. Whether its jobs still run is not known: {found.unasked}. "
            "`graft run CONFIG` takes over those that do, and does the rest.",
        ]
    return ["", "No command is working here, but its jobs go on; `graft run CONFIG` takes them over."]


def _running(found: StudyStatus) -> list[str]:
    from pipeline.execution.study_status import UnitState

    lines = []
    for kind, unit in _in_state(found, UnitState.RUNNING, UnitState.QUEUED):
        job = f", job {unit.job}" if unit.job else ""
        share = f" {100 * unit.fraction:.0f} %" if unit.state is UnitState.RUNNING else ""
        lines.append(f"  {kind.kind}/{unit.key}: {unit.state.value}{share}{job}")
    return _titled("Running or queued:", lines)


def _lost(found: StudyStatus) -> list[str]:
    from pipeline.execution.study_status import UnitState

    lost = [own for own in _in_state(found, UnitState.STOPPED) if own[1].message]
    return _titled("Lost with their jobs:", [f"  {kind.kind}/{unit.key}: {unit.message}" for kind, unit in lost])


def _slowest(found: StudyStatus) -> list[str]:
    from data.plain_number import plain_duration
    from pipeline.execution.study_status import UnitState

    done = sorted(_in_state(found, UnitState.DONE), key=lambda own: -own[1].seconds)[:_SHOWN]
    lines = [f"  {kind.kind}/{unit.key}: {plain_duration(unit.seconds)}" for kind, unit in done if unit.seconds >= 1]
    return _titled("Took longest:", lines)


def _failed(found: StudyStatus) -> list[str]:
    from pipeline.execution.study_status import UnitState

    lines = []
    for kind, unit in _in_state(found, UnitState.FAILED):
        last = [f"    | {line}" for line in _last_lines(unit.log)]
        lines.append("\n".join([f"  {kind.kind}/{unit.key}: {unit.message}", *last]))
    return _titled("Failed:", lines)


def _in_state(found: StudyStatus, *states: str) -> list[tuple[KindStatus, UnitStatus]]:
    return [(kind, unit) for kind in found.kinds for unit in kind.units if unit.state in states]


def _titled(title: str, lines: list[str]) -> list[str]:
    from data.names import printable

    shown = ["\n".join(map(printable, line.split("\n"))) for line in lines[:_SHOWN]]
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return ["", title, *shown, *more] if lines else []


def _last_lines(log: Path | None) -> list[str]:
    """The last lines that the job of a unit printed."""
    try:
        lines = log.read_text(errors="replace").splitlines() if log is not None else []
    except OSError:
        return []
    return [line for line in lines if line.strip()][-_LOG_LINES:]
