"""`graft init`: plans a study from its scans, and writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from data.modality import Modality
from pipeline.commands.output import stoppable
from pipeline.commands.shared_options import SharedOptions, with_shared_options

Kind = Annotated[
    Modality | None, typer.Option("--modality", help="What the scans show, where they do not tell it themselves.")
]


@with_shared_options("jobs", "device", "debug")
def init(
    options: SharedOptions,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Your annotated scans: a folder or a manifest.")],
    source: Annotated[
        Path | None, typer.Option("--source", metavar="DATASET", help="A labelled dataset to transfer from.")
    ] = None,
    modality: Kind = None,
    source_modality: Annotated[
        Modality | None, typer.Option("--source-modality", help="Of the source, where it is another one.")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="Time for the whole study, such as 90min.")] = "2h",
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The study to write.")] = Path("study.yaml"),
    name: Annotated[str | None, typer.Option("--name", help="Of the study [default: that of the folder].")] = None,
    channels: Annotated[
        str | None, typer.Option("--channels", help="Channels to use, as in T1,FLAIR [default: those of both].")
    ] = None,
    foreground: Annotated[
        str | None,
        typer.Option("--foreground", help="Structures, as in left,right or tumour=core+rim [default: all labels]."),
    ] = None,
    source_foreground: Annotated[
        str | None, typer.Option("--source-foreground", help="Structures of the source [default: all its labels].")
    ] = None,
    patients: Annotated[
        int | None, typer.Option("--patients", min=1, help="Annotated patients of the target to use [default: all].")
    ] = None,
    steps_per_second: Annotated[
        float | None,
        typer.Option("--steps-per-second", min=0.000001, help="Speed of a training [default: it is measured]."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Plan a study from its scans. Writes a YAML file that says why each value was chosen."""
    from data.errors import ConfigError

    if source is None:
        raise ConfigError(
            "graft init needs a source to transfer from",
            expected="--source with a labelled dataset, which may be the target's folder with other structures",
            fix="add `--source DATASET`",
        )
    from pipeline.planning.request import PlanRequest
    from pipeline.planning.written_study import plan_study, require_free

    require_free(output, force)
    named = None if channels is None else tuple(channel.strip() for channel in channels.split(","))
    request = PlanRequest(
        target,
        source,
        budget,
        name,
        modality,
        source_modality,
        named,
        foreground,
        source_foreground,
        patients,
        steps_per_second,
    )
    with stoppable(output):
        plan_study(request, output, options.jobs, options.device.value)
