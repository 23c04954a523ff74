"""What every backend does: run units, tell what ended, survive lost processes, stop when asked, and go on later."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.errors import DataError
from pipeline.execution.backend import Backend
from pipeline.execution.backend_options import Cluster, DaskOptions, SubmititOptions
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.dask_backend import DaskBackend
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.local_backend import LocalBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.execution.unit import MARKER, Unit, is_done
from pipeline.execution.units import Execution, StageRun, run_units
from pipeline.storage.workspace import Workspace

STAGE = "stage"


def write_number(folder: Path, progress: ProgressFile, *, number: int, log: Path) -> None:
    with log.open("a") as stream:
        stream.write(f"{number} {os.getpid()}\n")
    (folder / "number.txt").write_text(str(number) * 10)


def fail(folder: Path, progress: ProgressFile) -> None:
    raise DataError("/scans/a.nii: is corrupt", fix="replace it")


def kill(folder: Path, progress: ProgressFile, *, log: Path, times: int, command: int) -> None:
    """Kills its process the first times."""
    assert os.getpid() != command, "the unit ran in the process of the command"
    with log.open("a") as stream:
        stream.write("x")
    if log.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "number.txt").write_text("survived")


def count(folder: Path, progress: ProgressFile, *, flag: Path, steps: int) -> None:
    """Saves each step when asked to stop, and goes on from there."""
    state = folder / "state"
    first = int(state.read_text()) if state.exists() else 0
    flag.touch()
    for step in range(first, steps):
        if first == 0:
            time.sleep(0.05)
        progress(step / steps)
        if progress.stop_requested:
            state.write_text(str(step + 1))
            raise StopRequestedError("stopped")
    state.unlink(missing_ok=True)
    (folder / "from.txt").write_text("began" if first == 0 else "resumed")


def copy(folder: Path, progress: ProgressFile, *, path: Path) -> None:
    (folder / "copy.txt").write_text(path.read_text())


# What belongs to the main script is sent to other processes by value.
for _work in (write_number, fail, kill, count, copy):
    _work.__module__ = "__main__"


@pytest.fixture(scope="module")
def dask_scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        cluster.scheduler.allowed_failures = 1
        yield cluster.scheduler_address


@pytest.fixture(params=["in_process", "local", "submitit", "dask"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "in_process":
        return InProcessBackend()
    if request.param == "local":
        return LocalBackend()
    if request.param == "dask":
        return DaskBackend(DaskOptions(scheduler=request.getfixturevalue("dask_scheduler")))
    pytest.importorskip("submitit")
    return SubmititBackend(SubmititOptions(cluster=Cluster.LOCAL, poll_seconds=0.2, concurrent_jobs=2, attempts=2))


def numbers(workspace: Workspace, count: int = 4) -> list[Unit]:
    log = workspace.root / "log"
    return [Unit(STAGE, f"part/{i}", {"number": i}, write_number, {"number": i, "log": log}) for i in range(count)]


def run(backend: Backend, units: Sequence[Unit], workspace: Workspace) -> StageRun:
    with workspace.lock():
        return run_units(STAGE, units, workspace, Execution(2, 1, backend))


def states(result: StageRun) -> list[str]:
    return [outcome.state for outcome in result.outcomes]


@pytest.mark.slow
def test_units_are_run_once_and_failures_stay_alone(backend: Backend, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    units = [*numbers(workspace), Unit(STAGE, "bad", {}, fail)]
    result = run(backend, units, workspace)
    assert states(result) == ["done"] * 4 + ["failed"]
    assert result.failures[0].message == "/scans/a.nii: is corrupt; to fix it, replace it."
    assert sorted((workspace.root / "log").read_text().split()[::2]) == ["0", "1", "2", "3"]
    assert all(outcome.peak_memory > 0 for outcome in result.outcomes)
    for i in range(4):
        folder = workspace.unit_folder(STAGE, f"part/{i}")
        assert {path.name for path in folder.iterdir()} == {"number.txt", MARKER}
        assert (folder / "number.txt").read_text() == str(i) * 10
    assert not (workspace.root / ".progress").exists()
    assert states(run(backend, units[:4], workspace)) == ["reused"] * 4


def test_relative_paths_mean_what_they_mean_to_the_command(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there := tmp_path / "there").mkdir()
    # Workers that are kept for the next command have been in the folder of the one before; jobs are new processes.
    for place in [there] if isinstance(backend, SubmititBackend) else [Path.cwd(), there]:
        monkeypatch.chdir(place)
        (tmp_path / "input.txt").write_text(place.name)
        workspace = Workspace(Path(os.path.relpath(tmp_path / place.name / "w")))
        unit = Unit(STAGE, "copy", {}, copy, {"path": Path(os.path.relpath(tmp_path / "input.txt"))})
        assert states(run(backend, [unit], workspace)) == ["done"]
        assert (tmp_path / place.name / "w" / STAGE / "copy" / "copy.txt").read_text() == place.name


@pytest.mark.slow
def test_a_lost_process_costs_nobody_his_result(backend: Backend, tmp_path: Path) -> None:
    if isinstance(backend, InProcessBackend):
        pytest.skip("its units run in the process of the command")
    if isinstance(backend, DaskBackend) and os.environ.get("GRAFT_FAULTS") != "all":
        pytest.skip("takes up to a minute: set GRAFT_FAULTS=all, as `make faults` does")
    workspace = Workspace(tmp_path / "w")

    def killer(name: str, times: int) -> Unit:
        settings = {"log": tmp_path / name, "times": times, "command": os.getpid()}
        return Unit(STAGE, name, {}, kill, settings, size=5)

    result = run(backend, [killer("once", 1), killer("always", 10**6), *numbers(workspace, 3)], workspace)
    assert states(result) == ["done", "failed", "done", "done", "done"]
    assert "killed" in result.failures[0].message
    assert (workspace.unit_folder(STAGE, "once") / "number.txt").read_text() == "survived"
    assert not list((workspace.root / STAGE).rglob(".graft-tmp-*"))


@pytest.mark.slow
def test_units_stop_when_asked_and_go_on_where_they_stopped(backend: Backend, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    flag = tmp_path / "flag"
    long = Unit(STAGE, "long", {}, count, {"flag": flag, "steps": 2000}, size=9, resumable=True)
    with signal_when(flag.exists):
        first = run(backend, [long], workspace)
    assert states(first) == ["stopped"]
    assert not is_done(long, workspace)
    assert states(run(backend, [long], workspace)) == ["done"]
    assert (workspace.unit_folder(STAGE, "long") / "from.txt").read_text() == "resumed"


@contextmanager
def signal_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Sends SIGTERM to this process when something is the case, unless the block ends first."""
    ended = threading.Event()

    def wait() -> None:
        while not condition() and not ended.wait(0.05):
            pass
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
