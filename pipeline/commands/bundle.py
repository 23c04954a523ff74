"""`graft export`: the command that writes a trained model as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands.output import stoppable
from pipeline.commands.shared_options import NetworkCode, SharedOptions, with_shared_options


@with_shared_options("overrides", "debug")
def export(
    options: SharedOptions,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, such as infer/ARM/nNN/repeat-R/model.")],
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Folder of the bundle.")],
    study: Annotated[
        Path | None,
        typer.Option("--study", metavar="DIR", help="Workspace of the study [default: the one that holds the model]."),
    ] = None,
    example: Annotated[
        list[Path] | None,
        typer.Option("--example", metavar="SCAN", help="Put a scan and its mask into the bundle; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier export.")] = False,
    allow_network_code: NetworkCode = False,
) -> None:
    """Write a trained model as a MONAI bundle. It runs where Graft is not installed."""
    from pipeline.config.reading import read_command_options
    from pipeline.deployment.export_command import export as export_bundle
    from pipeline.deployment.export_options import ExportOptions

    chosen = read_command_options("export", ExportOptions, options.overrides)
    given: dict[str, Any] = {"study": study, "examples": example or (), "force": force}
    with stoppable(output):
        exported = export_bundle(model, output, chosen, **given, allow_network_code=allow_network_code)
        for line in exported.lines():
            typer.echo(line)
