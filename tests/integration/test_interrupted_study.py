"""A study that is killed at any moment resumes where it stopped and ends with the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.execution.stopping import REQUEUE
from pipeline.storage.tensors import load_about
from pipeline.training.checkpoint import CHECKPOINT
from pipeline.training.tracking import TRACKING

pytestmark = pytest.mark.slow

_GRAFT = [sys.executable, "-m", "pipeline.cli"]
_PATIENCE = 240.0


def markers(workspace: Path) -> dict[str, int]:
    return {str(p.relative_to(workspace)): p.stat().st_mtime_ns for p in workspace.rglob("done.json")}


@contextmanager
def begun(workspace: Path, arguments: list[str], ready: Callable[[Path], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """Starts the command, waits until the workspace is so far, and kills it, and only it, with SIGKILL in the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = subprocess.Popen(
        [*_GRAFT, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        end = time.monotonic() + _PATIENCE
        while not ready(workspace):
            assert command.poll() is None, "the command ended before it could be stopped"
            assert time.monotonic() < end, "the command did not get so far"
            time.sleep(0.01)
        yield command
    finally:
        command.kill()
        command.wait()


def has_a_checkpoint(workspace: Path) -> bool:
    """A source network's training has saved a checkpoint and continues."""
    return any((workspace / "train-source").rglob(CHECKPOINT))


def in_the_middle_of(stage: str) -> Callable[[Path], bool]:
    """One unit of the stage is done, and another is being worked on."""

    def ready(workspace: Path) -> bool:
        folder = workspace / stage
        unfinished = (*folder.rglob(".graft-tmp-*"), *folder.rglob(".partial-*"))
        return any(folder.rglob("done.json")) and bool(unfinished)

    return ready


def test_a_command_that_is_killed_goes_on_where_it_was(finished_study: Any, tmp_path: Path) -> None:
    workspace, whole = tmp_path / "killed", finished_study.workspace
    run = ["run", str(finished_study.config), "--workspace", str(workspace), "--jobs", "1"]
    for stage in ("preprocess", "train-target"):
        with begun(workspace, run, in_the_middle_of(stage)):
            pass
        before = markers(workspace)
        finished = [key for key in before if key.startswith(stage)]
        assert finished
        # What is under its name is whole.
        assert not (workspace / "results" / "cases.csv").exists()
    assert main(run) == 0
    after = markers(workspace)
    assert {key: after[key] for key in before} == before
    assert not list(workspace.rglob(".graft-tmp-*"))
    assert not list(workspace.rglob(".partial-*"))
    assert set(markers(whole)) == set(after)
    for name in ("cases.csv", "summary.csv"):
        assert (workspace / "results" / name).read_bytes() == (whole / "results" / name).read_bytes()
    stored = [*whole.rglob("*.safetensors")]
    assert stored
    for path in stored:
        assert (workspace / path.relative_to(whole)).read_bytes() == path.read_bytes()


def test_a_killed_or_stopped_training_goes_on_in_its_middle(
    write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path: Path
) -> None:
    study = write_study(
        tmp_path / "tiny.yaml",
        write_cohort(tmp_path / "cohort"),
        source_training={"cycles": 2, "steps_per_cycle": 25},
        execution={"checkpoint_steps": 1},
    )
    workspace, other = tmp_path / "stopped", tmp_path / "whole"
    for stage in ("check", "preprocess"):
        assert main([stage, str(study), "--workspace", str(other), "--jobs", "1"]) == 0
    shutil.copytree(other, workspace)
    train = ["train-source", str(study), "--workspace", str(workspace), "--jobs"]
    with begun(workspace, [*train, "1"], has_a_checkpoint):
        pass
    before = {p.parent.name: load_about(p)["step"] for p in (workspace / "train-source").rglob(CHECKPOINT)}
    assert before
    assert not markers(workspace / "train-source")

    def further(folder: Path) -> bool:
        steps = {p.parent.name: load_about(p)["step"] for p in (folder / "train-source").rglob(CHECKPOINT)}
        return any(step > before.get(name, 0) for name, step in steps.items())

    # Two networks at a time: the signal reaches them through the workspace.
    with begun(workspace, [*train, "2"], further) as command:
        command.send_signal(signal.SIGUSR1)
        assert command.wait(_PATIENCE) == REQUEUE
    # Nothing is lost: no training is behind where it was.
    after = {p.parent.name: load_about(p)["step"] for p in (workspace / "train-source").rglob(CHECKPOINT)}
    assert all(after[name] >= step for name, step in before.items())
    for folder in (workspace, other):
        assert main(["train-source", str(study), "--workspace", str(folder), "--jobs", "1"]) == 0
    assert [*(other / "train-source").rglob("snapshot-*.safetensors")]
    for path in (other / "train-source").rglob("*"):
        # Times and speeds of a unit are not functions of the seed.
        if path.is_file() and path.name not in {"done.json", "speed.jsonl"} and TRACKING not in path.parts:
            assert (workspace / path.relative_to(other)).read_bytes() == path.read_bytes()
    assert not list(workspace.rglob(".partial-*"))
