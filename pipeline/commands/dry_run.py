"""`graft run CONFIG --dry-run`: what there is to do, how long it would take, and what is stale and why.

A probe is asked for and never comes by itself: steps at full size may take minutes, and need the memory of a training,
on a machine that may be the one on which people log in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pipeline.config.study import StudyConfig
    from pipeline.stages.forecast import StageForecast
    from pipeline.stages.resources import Resources
    from pipeline.storage.stage_names import Stage


def show_forecast(stages: Sequence[Stage], config: StudyConfig, resources: Resources, timed: bool = False) -> None:
    """Prints what a command would do; `timed` has a few steps of trainings timed of which nothing is known."""
    from pipeline.stages.forecast import forecast
    from pipeline.stages.training_probe import TrainingProbe

    probe = TrainingProbe(config.execution.threads) if timed else None
    totals, known, to_do, later = {False: 0.0, True: 0.0}, True, 0, []
    for found in forecast(stages, config, resources, probe):
        if found.unknown:
            later.append(found.stage.value)
            # Of the stages that wait for work above, nothing is wrong.
            if not to_do:
                typer.echo(f"{found.stage.value}: {found.unknown}")
        for line in _lines(found, to_do > 0):
            typer.echo(line)
        for kind in found.kinds:
            to_do += kind.to_do
            totals[kind.on_gpu] += kind.seconds or 0.0
            known &= kind.seconds is not None
    if later:
        typer.echo(f"{', '.join(later)}: known once the stages before {'it' if len(later) == 1 else 'them'} are done")
    hours = " and ".join(_hours(seconds, gpu) for gpu, seconds in totals.items() if seconds)
    units = "1 unit" if to_do == 1 else f"{to_do} units"
    more = "" if known and not later else ", and what is not known yet"
    typer.echo(f"In all {units}{': ' if hours else ''}{hours}{more}. Nothing was run.")


def _lines(found: StageForecast, after_work: bool) -> Iterator[str]:
    stage = found.stage.value
    if found.needless:
        yield f"{stage}: skipped, because {found.needless}"
    for cost in found.rounds:
        rounds = "1 round" if cost.rounds == 1 else f"{cost.rounds} rounds"
        yield f"{stage}, {cost.arm}: each of up to {rounds} of self-training costs up to {cost.trainings} trainings"
    for arm, reason in found.without_model.items():
        yield f"{stage}, {arm}: no model of n = 0, because {reason}"
    for kind in found.kinds:
        name = stage if kind.kind == stage else f"{stage}, {kind.kind}"
        if not kind.to_do:
            later = ", as far as is known before the work above is done" if after_work else ""
            yield f"{name}: nothing to do, {kind.units} done{later}"
            continue
        hours = "no estimate before one is done" if kind.seconds is None else _hours(kind.seconds, kind.on_gpu)
        probed = " (probed: a few steps were timed on this machine)" if kind.probed else ""
        yield f"{name}: {kind.to_do} of {kind.units} to do, {hours}{probed}"
        for reason in kind.reasons:
            yield f"  {reason}"


def _hours(seconds: float, on_gpu: bool) -> str:
    from data.plain_number import plain_number

    hours = seconds / 3600
    number = "less than 0.01" if hours < 0.01 else f"about {plain_number(hours, 2)}"
    return f"{number} {'GPU' if on_gpu else 'core'} hours"
