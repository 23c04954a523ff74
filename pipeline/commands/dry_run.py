"""`graft run CONFIG --dry-run`: what there is to do, how long it would take, and what is stale and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pipeline.config.study import StudyConfig
    from pipeline.stages.forecast import StageForecast
    from pipeline.stages.resources import Resources
    from pipeline.storage.stage_names import Stage


def show_forecast(stages: Sequence[Stage], config: StudyConfig, resources: Resources) -> None:
    """Prints what a command would do."""
    from pipeline.stages.forecast import forecast

    total, unknown, to_do = 0.0, 0, 0
    for found in forecast(stages, config, resources):
        for line in _lines(found, to_do > 0):
            typer.echo(line)
        unknown += bool(found.unknown)
        for kind in found.kinds:
            to_do += kind.to_do
            total += kind.core_seconds or 0.0
            unknown += kind.core_seconds is None
    more = ", and what is not known yet" if unknown else ""
    typer.echo(f"In all {to_do} units: {_hours(total)}{more}. Nothing was run.")


def _lines(found: StageForecast, after_work: bool) -> Iterator[str]:
    stage = found.stage.value
    if found.needless:
        yield f"{stage}: skipped, because {found.needless}"
    elif found.unknown:
        yield f"{stage}: its units are known once the stages before it are done ({found.unknown})"
    for kind in found.kinds:
        name = stage if kind.kind == stage else f"{stage}, {kind.kind}"
        if not kind.to_do:
            later = ", as far as is known before the work above is done" if after_work else ""
            yield f"{name}: nothing to do, {kind.units} done{later}"
            continue
        hours = "duration unknown, as none was done yet" if kind.core_seconds is None else _hours(kind.core_seconds)
        yield f"{name}: {kind.to_do} of {kind.units} to do, {hours}"
        for reason in kind.reasons:
            yield f"  {reason}"


def _hours(core_seconds: float) -> str:
    from data.plain_number import plain_number

    return f"about {plain_number(core_seconds / 3600, 2)} core hours"
