"""Killed at any moment, a study goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main

_GRAFT = [sys.executable, "-m", "pipeline.cli"]
_PATIENCE = 90.0


def markers(workspace: Path) -> dict[str, int]:
    return {str(p.relative_to(workspace)): p.stat().st_mtime_ns for p in workspace.rglob("done.json")}


def kill_when(workspace: Path, arguments: list[str], ready: Callable[[Path], bool]) -> None:
    """Starts the command and kills it, and only it, with SIGKILL as soon as the workspace is so far."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = subprocess.Popen(
        [*_GRAFT, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        end = time.monotonic() + _PATIENCE
        while not ready(workspace):
            assert command.poll() is None, "the command ended before it could be killed"
            assert time.monotonic() < end, "the command did not get so far"
            time.sleep(0.002)
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()


def in_the_middle_of(stage: str) -> Callable[[Path], bool]:
    """One unit of the stage is done, and another is being worked on."""

    def ready(workspace: Path) -> bool:
        folder = workspace / stage
        return any(folder.rglob("done.json")) and any(folder.rglob(".tmp-*"))

    return ready


@pytest.fixture
def study(write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path: Path) -> Path:
    # Long enough to be killed in the middle of it.
    inference = {"steps": 40, "sizes": [1, 2], "arms": ["random", "dwp"]}
    return write_study(tmp_path / "tiny.yaml", write_cohort(tmp_path / "cohort"), inference=inference)


def test_a_command_that_is_killed_goes_on_where_it_was(study: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "killed"
    run = ["run", str(study), "--workspace", str(workspace), "--jobs", "1"]
    for stage in ("preprocess", "infer"):
        kill_when(workspace, run, in_the_middle_of(stage))
        before = markers(workspace)
        finished = [key for key in before if key.startswith(stage)]
        assert finished
        # What is under its name is whole.
        assert not (workspace / "results" / "cases.csv").exists()
    assert main(run) == 0
    after = markers(workspace)
    assert {key: after[key] for key in before} == before
    assert not list(workspace.rglob(".tmp-*"))
    other = tmp_path / "whole"
    assert main(["run", str(study), "--workspace", str(other), "--jobs", "1"]) == 0
    assert set(markers(other)) == set(after)
    for name in ("cases.csv", "summary.csv"):
        assert (workspace / "results" / name).read_bytes() == (other / "results" / name).read_bytes()
    for path in (other / "infer").rglob("*.safetensors"):
        assert (workspace / path.relative_to(other)).read_bytes() == path.read_bytes()
