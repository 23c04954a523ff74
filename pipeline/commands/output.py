"""Output of the commands: log lines and error messages, without characters that control the terminal."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from data.errors import GraftError
from pipeline.commands.shared_options import current, results_go_to

_INTERRUPTED = 130


class _Printable(logging.Filter):
    """Escapes control characters of paths and names in messages, so that they cannot control the terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        from data.names import printable

        record.msg, record.args = "\n".join(map(printable, record.getMessage().split("\n"))), ()
        return True


_PRINTABLE = _Printable()


def set_up_output() -> None:
    """Sets up logging and the streams of the command."""
    # Graft says so itself where workers are requested.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")
    # A name in letters that the font of a picture lacks; the file has the full name.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is not UTF-8, or that the terminal cannot show, must not stop a command.
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for set_up in logging.getLogger().handlers:
        set_up.addFilter(_PRINTABLE)
    for chatty in ("matplotlib", "nibabel", "torch", "nilearn", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@contextmanager
def stoppable(place: Path) -> Iterator[None]:
    """Runs a command that can be stopped and whose results go to `place`."""
    results_go_to(place)
    from pipeline.execution.stopping import REQUEUE, StopSignal, ends_on_signal

    try:
        with ends_on_signal():
            yield
    except KeyboardInterrupt as stop:
        # The command line library would turn it into "Aborted!" and exit code 1.
        typer.echo("graft: stopped; run the same command again to continue where it stopped.", err=True)
        raise typer.Exit(REQUEUE if isinstance(stop, StopSignal) else _INTERRUPTED) from None


def refused(error: GraftError) -> int:
    """Prints an error that the user can fix, and returns the exit code."""
    from data.names import printable

    if current().debug:
        logging.getLogger(__name__).exception("stopped")
    typer.echo(f"graft: {printable(str(error))}", err=True)
    return error.exit_code
