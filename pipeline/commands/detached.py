"""`graft run CONFIG --detach`: the same command in a session of its own, which outlives the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

LOG = "run.log"
"""What the command prints, in the workspace."""


def start_detached(arguments: Sequence[str], folder: Path) -> None:
    """Starts a command that goes on when this one has ended.

    Args:
        arguments: of `graft`.
        folder: its workspace.

    Raises:
        WorkspaceError: another command is working in the workspace, or it cannot be written.
    """
    from pipeline.storage.workspace import Workspace

    with Workspace(folder).lock():
        # Refused now, not in a log that nobody reads.
        log = (folder / LOG).open("a")
    code = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH"))))
    with log:
        process = subprocess.Popen(
            # Without the current folder, where a folder of scans may be called like a package.
            [sys.executable, "-P", "-m", "pipeline.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path},
        )
    typer.echo(f"Process {process.pid} works in {folder}; what it prints goes to {folder / LOG}.")
    typer.echo(f"`graft status {folder}` shows how far it is; `kill {process.pid}` makes it save and stop.")
