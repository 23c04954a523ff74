"""The workspace: one command at a time, and what it records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import WorkspaceError
from pipeline.execution.progress import ProgressFile
from pipeline.execution.provenance import read_provenance, record_inputs, record_stage, start_provenance
from pipeline.execution.provenance_record import InputFacts
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.storage.workspace import Workspace

_HOLD = """
import sys, time
from pathlib import Path
from pipeline.storage.workspace import Workspace
with Workspace(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def work(folder: Path, progress: ProgressFile, *, fails: bool = False) -> None:
    if fails:
        raise ValueError("no")
    (folder / "x").write_text("x")


def test_a_second_command_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        sentence = r"another graft command is working.*wait for it"
        with pytest.raises(WorkspaceError, match=sentence) as caught, Workspace(tmp_path).lock():
            pass
        assert caught.value.exit_code == 2
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    # Killed, not ended: the system has freed the lock all the same.
    with Workspace(tmp_path).lock():
        pass


def test_the_lock_is_freed_by_an_error(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(RuntimeError), workspace.lock():
        raise RuntimeError
    with workspace.lock():
        pass


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match=r"file: the workspace cannot be made.*--workspace"):
        Workspace(tmp_path / "file")


def test_provenance_names_versions_machine_and_inputs(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    start_provenance(workspace, seed=7, device="cpu")
    record_inputs(workspace, {"ms": InputFacts(root="/x", cases=3, sha256="ab")})
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["seed"] == 7
    assert record["machine"]["cpu_count"] >= 1
    assert record["machine"]["device"] == "cpu"
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["torch"] != "not installed"
    assert record["inputs"] == {"ms": {"root": "/x", "cases": 3, "sha256": "ab"}}
    assert set(record) >= {"graft_version", "git_commit", "command", "started", "stages"}


def test_a_stage_records_time_memory_and_counts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    start_provenance(workspace, seed=0, device="cpu")
    units = [Unit("s", "a", {}, work), Unit("s", "b", {}, work, {"fails": True})]
    record_stage(workspace, "s", units, run_units("s", units, workspace, Execution()))
    first = read_provenance(workspace).stages["s"]
    assert (first.units, first.units_done, first.units_failed) == (2, 1, 1)
    assert 0.01 < first.peak_memory_gb < 100
    assert first.wall_seconds >= 0
    # A run that finds all done adds no time, and a new start keeps what is recorded.
    start_provenance(workspace, seed=0, device="cpu")
    again = run_units("s", units[:1], workspace, Execution())
    record_stage(workspace, "s", units[:1], again)
    second = read_provenance(workspace).stages["s"]
    assert second.units_reused == 1
    assert second.wall_seconds == first.wall_seconds
    assert second.peak_memory_gb == first.peak_memory_gb


def test_damaged_provenance_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text('{"stages": ')
    start_provenance(Workspace(tmp_path), seed=1, device="cpu")
    assert read_provenance(Workspace(tmp_path)).seed == 1


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("", "."),
        ("", ".."),
        ("", ""),
        ("infer", "../../victim"),
        ("infer", "a/../../.."),
        ("infer", "/tmp"),
        ("infer", "a//n05"),
        ("..", "victim"),
        ("", "link"),
        ("link", "a"),
        ("infer", "inner/a"),
    ],
)
def test_the_folder_of_a_unit_lies_in_the_workspace(tmp_path: Path, stage: str, key: str) -> None:
    workspace = Workspace(tmp_path / "w")
    (tmp_path / "victim").mkdir()
    (tmp_path / "w" / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "w" / "infer").mkdir()
    (tmp_path / "w" / "infer" / "inner").symlink_to(tmp_path / "w")
    with pytest.raises(WorkspaceError, match="does not lie in"):
        workspace.unit_folder(stage, key)


def test_the_workspace_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "w").symlink_to(tmp_path / "disk")
    assert Workspace(tmp_path / "w").unit_folder("infer", "Läsion/n05") == tmp_path / "w" / "infer" / "Läsion" / "n05"
