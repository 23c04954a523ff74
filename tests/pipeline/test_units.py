"""Units: done once, done again when stale or damaged, none lost when a worker is killed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from joblib.externals.loky import process_executor

from data.errors import DataError, WorkspaceError
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import StageError, complete
from pipeline.execution.unit import MARKER, Outcome, Unit, is_done, read_marker, require_done
from pipeline.execution.units import Execution, StageRun, run_units
from pipeline.storage.owned_folder import Changed
from pipeline.storage.workspace import Workspace

STAGE = "stage"


def write_number(folder: Path, progress: ProgressFile, *, number: int, log: Path) -> None:
    with log.open("a") as stream:
        stream.write(f"{number}\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "number.txt").write_text(str(number) * 10)
    progress(1.0)


def write_threads(folder: Path, progress: ProgressFile) -> None:
    (folder / "threads.txt").write_text(str(torch.get_num_threads()))


def fail(folder: Path, progress: ProgressFile, *, user: bool) -> None:
    (folder / "half").write_text("half")
    if user:
        raise DataError("/scans/a.nii: is corrupt", fix="replace it")
    raise KeyError("a bug")


def kill_once(folder: Path, progress: ProgressFile, *, flag: Path, command: int, number: int) -> None:
    (folder / "number.txt").write_text("half")
    if not flag.exists():
        flag.write_text("")
        assert os.getpid() != command, "a unit ran in the process of the command"
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "number.txt").write_text(str(number))


def kill_always(folder: Path, progress: ProgressFile, *, command: int) -> None:
    assert os.getpid() != command, "a unit ran in the process of the command"
    os.kill(os.getpid(), signal.SIGKILL)


def grow(folder: Path, progress: ProgressFile, *, log: Path, megabytes: int) -> None:
    sys.graft_test_ballast = b"x" * (megabytes * 1_000_000)  # type: ignore[attr-defined]
    with log.open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(1.1)  # loky looks at most once a second


# Workers cannot import this file; what belongs to the main script is sent to them by value.
for _work in (write_number, write_threads, fail, kill_once, kill_always, grow):
    _work.__module__ = "__main__"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def numbers(workspace: Workspace, count: int = 3, **recipe: object) -> list[Unit]:
    log = workspace.root / "log"
    return [
        Unit(STAGE, f"part/{i}", {"number": i, **recipe}, write_number, {"number": i, "log": log}) for i in range(count)
    ]


def done_by(workspace: Workspace) -> list[str]:
    """What the units have logged since the last look."""
    log = workspace.root / "log"
    lines = sorted(log.read_text().split()) if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def run(units: Sequence[Unit], workspace: Workspace, jobs: int = 1) -> StageRun:
    return run_units(STAGE, units, workspace, Execution(jobs))


def contents(workspace: Workspace) -> dict[str, bytes]:
    files = (p for p in (workspace.root / STAGE).rglob("*") if p.is_file() and p.name != MARKER)
    return {str(p.relative_to(workspace.root)): p.read_bytes() for p in files}


def test_finished_units_are_not_done_again(workspace: Workspace) -> None:
    units = numbers(workspace)
    first = run(units, workspace)
    assert [o.state for o in first.outcomes] == ["done"] * 3
    assert done_by(workspace) == ["0", "1", "2"]
    folder = workspace.unit_folder(STAGE, "part/1")
    assert (folder / "deep" / "number.txt").read_text() == "1" * 10
    before = (folder / MARKER).stat().st_mtime_ns
    second = run(units, workspace)
    assert second.count("reused") == 3
    assert done_by(workspace) == []
    assert (folder / MARKER).stat().st_mtime_ns == before


def test_only_what_is_missing_is_done(workspace: Workspace) -> None:
    run(numbers(workspace, 2), workspace)
    done_by(workspace)
    outcomes = run(numbers(workspace, 4), workspace).outcomes
    assert [o.state for o in outcomes] == ["reused", "reused", "done", "done"]
    assert [o.key for o in outcomes] == [f"part/{i}" for i in range(4)]
    assert done_by(workspace) == ["2", "3"]


def test_another_recipe_makes_a_unit_stale(workspace: Workspace) -> None:
    run(numbers(workspace, rate=1), workspace)
    done_by(workspace)
    stale = numbers(workspace, rate=2)
    assert not any(is_done(unit, workspace) for unit in stale)
    assert run(stale, workspace).count("done") == 3
    assert done_by(workspace) == ["0", "1", "2"]
    assert all(is_done(unit, workspace) for unit in stale)


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "broken marker", "marker of a list"])
def test_a_damaged_unit_is_done_again(workspace: Workspace, damage: str) -> None:
    units = numbers(workspace)
    run(units, workspace)
    done_by(workspace)
    whole = contents(workspace)
    folder = workspace.unit_folder(STAGE, "part/1")
    file, marker = folder / "deep" / "number.txt", folder / MARKER
    {
        "missing": file.unlink,
        "truncated": lambda: file.write_text("1"),
        "longer": lambda: file.write_text("1" * 11),
        "broken marker": lambda: marker.write_text('{"digest": "'),
        "marker of a list": lambda: marker.write_text("[]"),
    }[damage]()
    assert read_marker(folder) is None
    assert [o.state for o in run(units, workspace).outcomes] == ["reused", "done", "reused"]
    assert done_by(workspace) == ["1"]
    assert contents(workspace) == whole


def test_files_of_others_in_the_folder_of_a_unit_stay(workspace: Workspace) -> None:
    run(numbers(workspace, 1), workspace)
    folder = workspace.unit_folder(STAGE, "part/0")
    (folder / "deep" / "notes.txt").write_text("mine")
    assert run(numbers(workspace, 1, other=True), workspace).count("done") == 1
    assert (folder / "deep" / "notes.txt").read_text() == "mine"
    assert json.loads((folder / MARKER).read_text())["files"] == {"deep/number.txt": 10}


def test_a_folder_without_a_marker_is_somebody_elses(workspace: Workspace) -> None:
    folder = workspace.unit_folder(STAGE, "part/1")
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("three years")
    outcomes = run(numbers(workspace), workspace).outcomes
    assert [o.state for o in outcomes] == ["done", "failed", "done"]
    assert f"{folder}: holds files but no {MARKER}" in outcomes[1].message
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]
    assert done_by(workspace) == ["0", "2"], "the work was done in vain"


def test_a_changed_file_stops_its_unit_alone_and_only_where_it_would_be_replaced(
    workspace: Workspace,
) -> None:
    units = [dataclasses.replace(unit, changed=Changed.REFUSE) for unit in numbers(workspace)]
    run(units, workspace)
    done_by(workspace)
    file = workspace.unit_folder(STAGE, "part/1") / "deep" / "number.txt"
    file.write_text("2" * 10)  # of the same size
    # Where nothing has to be written, nothing is in the way.
    assert [outcome.state for outcome in run(units, workspace).outcomes] == ["reused"] * 3
    again = [dataclasses.replace(unit, recipe={"other": 1}) for unit in units]
    outcomes = run(again, workspace).outcomes
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done"]
    assert f"{file}: has been changed since Graft wrote it" in outcomes[1].message
    assert file.read_text() == "2" * 10
    assert done_by(workspace) == ["0", "2"]
    file.rename(file.with_name("corrected.txt"))
    assert [o.state for o in run(again, workspace).outcomes] == ["reused", "done", "reused"]
    assert file.read_text() == "1" * 10
    assert file.with_name("corrected.txt").read_text() == "2" * 10


def test_the_marker_lists_every_file_with_its_size(workspace: Workspace) -> None:
    units = numbers(workspace, 1)
    run(units, workspace)
    marker = json.loads((workspace.unit_folder(STAGE, "part/0") / MARKER).read_text())
    assert marker["files"] == {"deep/number.txt": 10}
    assert marker["sha256"] == {"deep/number.txt": hashlib.sha256(b"0" * 10).hexdigest()}
    assert marker["digest"] == units[0].digest
    assert marker["seconds"] >= 0
    assert marker["peak_memory"] > 1_000_000


def test_the_digest_depends_on_stage_key_and_recipe() -> None:
    variants = {
        Unit(stage, key, {"x": x}, write_number).digest for stage in ("a", "b") for key in ("c", "d") for x in (1, 2)
    }
    assert len(variants) == 8
    # How long it takes does not change what comes out.
    assert Unit("a", "c", {"x": 1}, write_number, size=9).digest in variants


def test_temporary_folders_of_an_interrupted_run_are_removed(workspace: Workspace) -> None:
    left = workspace.root / STAGE / "part" / ".graft-tmp-1-0123abcd-abcdefgh"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    run(numbers(workspace, 1), workspace)
    assert not left.exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_does_not_stop_the_others(workspace: Workspace, jobs: int, caplog: pytest.LogCaptureFixture) -> None:
    bad = [Unit(STAGE, "user", {}, fail, {"user": True}), Unit(STAGE, "bug", {}, fail, {"user": False})]
    with caplog.at_level(logging.INFO):
        result = run([*bad, *numbers(workspace)], workspace, jobs)
    assert [o.state for o in result.outcomes] == ["failed", "failed", "done", "done", "done"]
    user, bug = result.failures
    assert user.message == "/scans/a.nii: is corrupt; to fix it, replace it."
    assert user.trace == ""
    assert bug.message == "KeyError: 'a bug'"
    assert "in fail" in bug.trace
    assert not workspace.unit_folder(STAGE, "user").exists()
    assert not list((workspace.root / STAGE).glob(".graft-tmp-*"))
    assert "user failed: /scans/a.nii: is corrupt" in caplog.text
    with pytest.raises(StageError, match=r"2 of 5 units failed \(user: /scans/a.nii.*bug: KeyError.*other 3 are kept"):
        complete(STAGE, result)


def test_one_reason_is_told_once() -> None:
    failed = [Outcome(f"case_{number}", "failed", message="/out: the disk is full.") for number in range(7)]
    other = Outcome("other", "failed", message="is corrupt.")
    with pytest.raises(StageError) as caught:
        complete(STAGE, StageRun((*failed, other, Outcome("good", "done")), 1.0))
    assert str(caught.value).startswith(
        "stage: 8 of 9 units failed (case_0, case_1, case_2, case_3, case_4 and 2 more: /out: the disk is full; "
        "other: is corrupt); the other 1 is kept"
    )


def test_a_failed_unit_keeps_what_was_there(workspace: Workspace) -> None:
    run(numbers(workspace, 1), workspace)
    before = contents(workspace)
    failing = Unit(STAGE, "part/0", {"other": 1}, fail, {"user": True})
    assert run([failing], workspace).count("failed") == 1
    assert contents(workspace) == before


def test_the_only_failure_of_a_stage_of_one_unit_speaks_for_itself(workspace: Workspace) -> None:
    result = run([Unit(STAGE, "study", {}, fail, {"user": True})], workspace)
    with pytest.raises(StageError) as caught:
        complete(STAGE, result)
    assert str(caught.value) == "/scans/a.nii: is corrupt; to fix it, replace it."
    complete(STAGE, run(numbers(workspace, 1), workspace))


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    results = {}
    for name, jobs, killed in (("one", 1, False), ("two", 2, True)):
        workspace = Workspace(tmp_path / name)
        flag = tmp_path / f"{name}.flag"
        if not killed:
            flag.write_text("")
        settings = {"flag": flag, "command": os.getpid(), "number": 7}
        units = [*numbers(workspace, 3), Unit(STAGE, "killed", {}, kill_once, settings)]
        result = run(units, workspace, jobs)
        assert [o.state for o in result.outcomes] == ["done"] * 4
        assert [p.name for p in (workspace.root / STAGE).rglob(".graft-tmp-*")] == []
        results[name] = contents(workspace)
        assert run(units, workspace, jobs).count("reused") == 4
    assert results["one"] == results["two"]
    assert results["two"]["stage/killed/number.txt"] == b"7"


def test_without_shared_memory_units_are_done_one_by_one(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What joblib says where `/dev/shm` can only be read.
    monkeypatch.setattr("joblib.effective_n_jobs", lambda jobs: 1)
    monkeypatch.setattr("joblib.Parallel", None)
    assert run(numbers(workspace), workspace, jobs=2).count("done") == 3
    assert "/dev/shm is not writable: running one unit at a time" in caplog.text


@pytest.mark.slow
def test_a_unit_that_always_kills_its_worker_fails_alone(workspace: Workspace) -> None:
    unit = Unit(STAGE, "killed", {}, kill_always, {"command": os.getpid()}, size=9)
    result = run([unit, *numbers(workspace, 2)], workspace, 2)
    assert [o.state for o in result.outcomes] == ["failed", "done", "done"]
    with pytest.raises(StageError, match=r"1 of 3 units failed.*killed repeatedly.*--jobs 1.*other 2 are kept"):
        complete(STAGE, result)
    assert not workspace.unit_folder(STAGE, "killed").exists()


def test_loky_still_has_what_workers_change_in_it() -> None:
    # Private, as there is no public way. Without psutil loky measures nothing, and the next test could not fail.
    assert process_executor._MAX_MEMORY_LEAK_SIZE == 300_000_000
    assert process_executor._USE_PSUTIL


@pytest.mark.slow
def test_a_worker_may_grow(workspace: Workspace) -> None:
    log = workspace.root / "log"
    sizes = [1, 1, 350, 350, 350, 350]
    units = [
        Unit(STAGE, str(i), {}, grow, {"log": log, "megabytes": megabytes}, size=-i)
        for i, megabytes in enumerate(sizes)
    ]
    assert run(units, workspace, 2).count("done") == len(sizes)
    assert len(set(log.read_text().split())) == 2, "a worker was replaced"


_LEFT = """
import os, sys
from pathlib import Path
from pipeline.storage.workspace import Workspace
for name in ("sem.loky-%d-abcdefgh", "sem.loky-1-abcdefgh", "joblib_memmapping_folder_%d_a_b/x"):
    path = Path(sys.argv[2]) / (name % os.getpid() if "%" in name else name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
with Workspace(Path(sys.argv[1])).lock():
    os._exit(9)
"""


def test_what_a_killed_command_left_in_shared_memory_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shm"
    shared.mkdir()
    command = [sys.executable, "-c", _LEFT, str(tmp_path / "w"), str(shared)]
    subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert len(list(shared.iterdir())) == 3
    monkeypatch.setattr("pipeline.storage.shared_memory.SHARED_MEMORY", shared)
    with Workspace(tmp_path / "w").lock():
        # That of another process is not ours to remove.
        assert [p.name for p in shared.iterdir()] == ["sem.loky-1-abcdefgh"]


def test_nothing_of_the_work_is_left_in_the_workspace(workspace: Workspace) -> None:
    with workspace.lock():
        run(numbers(workspace, 2), workspace, jobs=2)
    assert {p.name for p in workspace.root.iterdir()} == {STAGE, "log"}


def test_what_a_later_stage_needs_must_be_there(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match=r"stage/part/0.*run `graft stage CONFIG`"):
        require_done(workspace, STAGE, "part/0")
    units = numbers(workspace, 1)
    run(units, workspace)
    assert require_done(workspace, STAGE, "part/0")["digest"] == units[0].digest


def test_every_unit_says_that_it_is_done(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run(numbers(workspace, 2), workspace)
        run(numbers(workspace, 2), workspace)
    assert "stage: 2 to do, 0 already done" in caplog.text
    assert "stage 2/2 part/1" in caplog.text
    assert "stage: nothing to do, 2 already done" in caplog.text


_KILLED_COMMAND = """
import os, sys, time
from pathlib import Path
from pipeline.execution.progress import ProgressFile
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.storage.workspace import Workspace

def wait(folder, progress, *, flag):
    flag.write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    root = Path(sys.argv[1])
    run_units("stage", [Unit("stage", "alone", {}, wait, {"flag": root / "flag"})], Workspace(root / "w"), Execution(2))
"""


@pytest.mark.slow
def test_a_worker_without_a_unit_ends_with_its_command_too(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(_KILLED_COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen([sys.executable, str(tmp_path / "command.py"), str(tmp_path)], env=environment)

    def workers() -> dict[int, int]:
        """Number of each living worker on this machine → that of its parent."""
        listed = subprocess.run(
            ["ps", "-wweo", "pid,ppid,stat,args"], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(maxsplit=3) for line in listed.splitlines() if "LokyProcess" in line]
        return {int(pid): int(parent) for pid, parent, state, _ in rows if not state.startswith("Z")}

    def own() -> set[int]:
        return {pid for pid, parent in workers().items() if parent == command.pid}

    try:
        wait_for(lambda: (tmp_path / "flag").exists() and len(own()) == 2)
        started = own()
    finally:
        command.kill()
        command.wait()
    wait_for(lambda: not started & workers().keys())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_unit_in_the_process_of_the_command_leaves_its_threads_as_they_were(workspace: Workspace) -> None:
    before = torch.get_num_threads()
    unit = Unit(STAGE, "threads", {}, write_threads)
    run_units(STAGE, [unit], workspace, Execution(1, before + 1, InProcessBackend()))
    assert (workspace.unit_folder(STAGE, "threads") / "threads.txt").read_text() == str(before + 1)
    assert torch.get_num_threads() == before
