"""The `graft` command. Heavy modules are imported inside the commands, so that `--help` is fast."""

from __future__ import annotations

import os
import sys

import typer

from data.errors import GraftError
from pipeline.commands.bundle import export
from pipeline.commands.output import refused, set_up_output
from pipeline.commands.pack import pack
from pipeline.commands.planning import adapt, init
from pipeline.commands.scans import predict, preprocess, synthesize
from pipeline.commands.shared_options import SharedOptions, current, reset_options, with_shared_options
from pipeline.commands.status import status
from pipeline.commands.study import STAGE_HELP, check, run, stage_command

app = typer.Typer(
    name="graft",
    help="Few-shot 3D segmentation by transfer: learn filter priors on a source, infer on a few target scans.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@with_shared_options()
def _before_the_command(options: SharedOptions) -> None:
    pass


def version() -> None:
    """Print the version."""
    from pipeline.execution.provenance import graft_version

    typer.echo(graft_version())


app.callback()(_before_the_command)
for _command in (synthesize, init, adapt, check, preprocess):
    app.command()(_command)
for _stage, _text in STAGE_HELP.items():
    app.command(_stage.value, help=_text)(stage_command(_stage))
for _command in (run, status, predict, export, pack, version):
    app.command()(_command)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        0; 2 for an error that the user can fix, 130 after Ctrl-C, 1 for a bug.
    """
    reset_options(debug=bool(os.environ.get("GRAFT_DEBUG")))
    set_up_output()
    try:
        app(arguments)
    except GraftError as error:
        return refused(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        from pipeline.storage.machine_faults import machine_fault

        if fault := machine_fault(error, current().place):
            return refused(fault)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
