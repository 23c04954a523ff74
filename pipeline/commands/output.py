"""What a command prints: log lines, sentences about errors, and no character that a terminal would obey."""

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
    """Shows control characters of paths and names in messages as escapes, so that no terminal obeys them."""

    def filter(self, record: logging.LogRecord) -> bool:
        from data.names import printable

        record.msg, record.args = "\n".join(map(printable, record.getMessage().split("\n"))), ()
        return True


_PRINTABLE = _Printable()


def set_up_output() -> None:
    """Sets up logging and streams of the command."""
    # Told by us, where workers are asked for.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode")
    # A name in letters that the font of a picture lacks; its file carries the name itself.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is no UTF-8, or that the terminal cannot show, must not stop a command.
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
    """Carries out a command that can be stopped, whose results go to `place`."""
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
    """Prints what the user can fix, and returns the exit code."""
    from data.names import printable

    if current().debug:
        logging.getLogger(__name__).exception("stopped")
    typer.echo(f"graft: {printable(str(error))}", err=True)
    return error.exit_code
