"""The command that gives away what was learned on a source, and shows what such a pack holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.output import stoppable
from pipeline.commands.shared_options import SharedOptions, with_shared_options


@with_shared_options("debug")
def pack(
    options: SharedOptions,
    workspace: Annotated[
        Path | None, typer.Argument(metavar="WORKSPACE", help="Workspace of a study whose source is learned.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="The pack to write.")] = None,
    show: Annotated[Path | None, typer.Option("--show", metavar="FILE", help="Print the card of this pack.")] = None,
    all_snapshots: Annotated[
        bool, typer.Option("--all-snapshots", help="Put in the weights at the end of every cycle, not the last alone.")
    ] = False,
    title: Annotated[
        str | None, typer.Option("--title", help="What you call it; the study's own title is not told.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="Under which terms it may be used, in a sentence.")
    ] = None,
    licence_file: Annotated[
        Path | None, typer.Option("--license-file", metavar="FILE", help="Text of the licence, to be put in.")
    ] = None,
    citation: Annotated[str | None, typer.Option("--citation", help="What to cite.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a pack that is there.")] = False,
) -> None:
    """Share what was learned on a source. One file of networks and filter priors, without a scan."""
    from data.errors import ConfigError

    if show is not None:
        if workspace is not None or output is not None:
            raise ConfigError(
                "graft pack: --show with a workspace or --output",
                expected="`graft pack --show FILE`, or `graft pack WORKSPACE --output FILE`",
                fix="remove one of them",
            )
        from pipeline.packing.pack_display import shown_card

        typer.echo(shown_card(show))
        return
    if workspace is None or output is None:
        raise ConfigError(
            f"graft pack: no {'WORKSPACE' if workspace is None else '--output'}",
            expected="`graft pack WORKSPACE --output FILE`, or `graft pack --show FILE`",
            fix="add it",
        )
    from pipeline.packing.pack_command import PackRequest
    from pipeline.packing.pack_command import pack as write_pack

    request = PackRequest(
        workspace, output, title or "", licence or "", licence_file, citation or "", all_snapshots, force
    )
    with stoppable(output):
        for line in write_pack(request):
            typer.echo(line)
