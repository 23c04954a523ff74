"""`graft status`: what a workspace says of its units, running or not, and commands in the background."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from data.errors import DataError
from pipeline.cli import main
from pipeline.execution.backend import Work
from pipeline.execution.backend_options import Cluster
from pipeline.execution.cluster import living_jobs
from pipeline.execution.cluster.job_files import JOBS, JobBook
from pipeline.execution.cluster.scheduler import Cause, Death, QueuedJob
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.ledger import Ledger, noted_command, read_ledger
from pipeline.execution.progress import PROGRESS, ProgressFile, progress_file
from pipeline.execution.stage import run_stage
from pipeline.execution.study_status import UnitState, study_status
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution
from pipeline.storage.workspace import Workspace

STAGE = "stage"


def write_text(folder: Path, progress: ProgressFile, *, bad: bool) -> None:
    if bad:
        raise DataError("/scans/a.nii: is corrupt", fix="replace it")
    (folder / "text").write_text("text")


def units(count: int = 4) -> list[Unit]:
    return [Unit(STAGE, f"u{i}", {"i": i}, write_text, {"bad": i == 1}) for i in range(count)]


def test_after_a_run_it_says_what_is_done_and_why_something_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    run_stage(STAGE, units(3), workspace, Execution(1, 1, InProcessBackend()))
    [kind] = study_status(tmp_path).kinds
    assert [unit.state for unit in kind.units] == [UnitState.DONE, UnitState.FAILED, UnitState.DONE]
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "stage/u1: /scans/a.nii: is corrupt; to fix it, replace it." in text
    assert "No command is working here; `graft run CONFIG` continues." in text
    # The marker is the truth: what is deleted is no longer done.
    (workspace.unit_folder(STAGE, "u0") / "done.json").unlink()
    assert study_status(tmp_path).kinds[0].units[0].state is UnitState.STOPPED


def test_while_a_command_works_it_says_what_runs_and_how_long_it_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, own = Workspace(tmp_path), units()
    (tmp_path / PROGRESS).mkdir()
    with workspace.lock():
        Ledger(workspace, STAGE).begin(own, own)
        line = json.loads((tmp_path / "units/stage.jsonl").read_text())
        (tmp_path / "units/stage.jsonl").write_text(json.dumps(line | {"began": time.time() - 30}) + "\n")
        work = Work(STAGE, own[:1], workspace, tmp_path / PROGRESS)
        for outcome in InProcessBackend().run(work):
            Ledger(workspace, STAGE).end(outcome)
        progress_file(tmp_path / PROGRESS, "u2").write_text("0.5")
        [kind] = study_status(tmp_path).kinds
        assert [unit.state for unit in kind.units] == [
            UnitState.DONE, UnitState.WAITING, UnitState.RUNNING, UnitState.WAITING,
        ]  # fmt: skip
        # 1.5 of 4 units in 30 s.
        assert kind.seconds_left == pytest.approx(50, abs=1)
        assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"Process {os.getpid()} on " in text
    assert "stage/u2: running 50 %" in text
    assert "50." in text.split("stage")[1].split("\n")[0]


def test_a_finished_study_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, own = Workspace(tmp_path), [units()[0]]

    def says(stages: Sequence[str], fails: bool = False) -> str:
        with suppress(DataError), noted_command(workspace, stages):
            run_stage(STAGE, own, workspace, Execution(1, 1, InProcessBackend()))
            if fails:
                raise DataError("a stage failed")
        assert main(["status", str(tmp_path)]) == 0
        return capsys.readouterr().out

    finished, goes_on = "The study is finished; its report is", "`graft run CONFIG` continues"
    assert finished in (whole := says(["stage", "report"]))
    assert goes_on not in whole
    for text in (says(["stage"]), says(["stage", "report"], fails=True)):
        assert finished not in text
        assert goes_on in text
    says(["stage", "report"])
    (workspace.unit_folder(STAGE, "u0") / "done.json").unlink()
    assert not study_status(tmp_path).finished


class Told:
    """A scheduler that says what it is told to."""

    def __init__(self, queue: list[QueuedJob] | None) -> None:
        self._queue = queue

    def queue(self) -> list[QueuedJob] | None:
        return self._queue

    def death(self, job: str) -> Death:
        return Death(Cause.TIME, f"reached its time limit, {job} did")


def gone_with_jobs(folder: Path, cluster: Cluster = Cluster.SLURM) -> None:
    """Four units whose command is gone, each with a job of its own; u0 and u2 have begun, u1 has failed."""
    own, book = units(), JobBook(folder / JOBS)
    Ledger(Workspace(folder), STAGE).begin(own, own)
    jobs = book.plan(STAGE, [[unit] for unit in own], cluster)
    for job in jobs:
        job.job = f"12_{job.number}"
    book.submitted(jobs)
    (folder / PROGRESS).mkdir()
    for key in ("u0", "u2"):
        progress_file(folder / PROGRESS, key).write_text("0.25")
    for outcome in InProcessBackend().run(Work(STAGE, own[1:2], Workspace(folder), folder / PROGRESS)):
        book.events(jobs[1]).end_unit(outcome)
    (folder / JOBS / STAGE / "12_1_0_log.out").write_text("line\nslurmstepd: oom\n")


def test_of_jobs_without_a_command_the_scheduler_says_which_have_ended_and_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_with_jobs(tmp_path)
    queue = [QueuedJob("12_0", "", "RUNNING"), QueuedJob("12_1", "", "RUNNING"), QueuedJob("12_3", "", "PENDING")]
    monkeypatch.setattr(living_jobs, "Slurm", lambda: Told(queue))
    # One that was queued again has left its progress.
    progress_file(tmp_path / PROGRESS, "u3").write_text("0.5")
    [kind] = study_status(tmp_path).kinds
    states = [UnitState.RUNNING, UnitState.FAILED, UnitState.STOPPED, UnitState.QUEUED]
    assert [unit.state for unit in kind.units] == states
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "No command is working here, but its jobs go on" in text
    assert "stage/u0: running 25 %, job 12_0" in text
    assert "stage/u2: its job 12_2 reached its time limit, 12_2 did" in text
    assert "stage/u3: queued, job 12_3" in text
    # What happened in a job while there was no command is known from its own file.
    assert "stage/u1: /scans/a.nii: is corrupt" in text
    assert "    | slurmstepd: oom" in text
    queue.clear()
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "`graft run CONFIG` continues" in text
    assert "running" not in text.split("Lost with their jobs:")[1]


@pytest.mark.parametrize("reason", ["answer", "commands", "user", "host"])
def test_where_the_scheduler_cannot_be_asked_that_is_said(
    reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_with_jobs(tmp_path, Cluster.LOCAL if reason == "host" else Cluster.SLURM)
    monkeypatch.setattr(living_jobs, "Slurm", lambda: Told(None))
    if reason == "commands":
        monkeypatch.undo()
        monkeypatch.setenv("PATH", str(tmp_path))
    if reason == "user":
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
    if reason == "host":
        line = json.loads((tmp_path / "units/stage.jsonl").read_text())
        (tmp_path / "units/stage.jsonl").write_text(json.dumps(line | {"host": "elsewhere"}) + "\n")
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    words = {"answer": "the scheduler does not answer", "commands": "this machine has no commands of the scheduler",
             "user": "they belong to another user", "host": "they are processes on elsewhere"}  # fmt: skip
    assert f"Whether its jobs still run is not known: {words[reason]}." in text
    # As far as is known, they do.
    assert "stage/u0: running 25 %, job 12_0" in text
    assert "stage/u3: queued, job 12_3" in text


def test_processes_in_the_place_of_jobs_are_looked_for(tmp_path: Path) -> None:
    gone_with_jobs(tmp_path, Cluster.LOCAL)
    book = JobBook(tmp_path / JOBS)
    jobs = book.open_jobs()
    for job in jobs:
        # No number is that high, but for the first one, which is that of this process.
        job.job = str(os.getpid() if job.number == 0 else 2**22 + job.number)
    book.submitted(jobs)
    [kind] = study_status(tmp_path).kinds
    assert [unit.state.value for unit in kind.units] == ["running", "failed", "stopped", "stopped"]


def test_a_torn_line_of_the_ledger_is_passed_over(tmp_path: Path) -> None:
    ledger = Ledger(Workspace(tmp_path), STAGE)
    ledger.begin(units(), units())
    with (tmp_path / "units/stage.jsonl").open("a") as stream:
        stream.write('{"ended": {"key": "u0", "st')
    assert not read_ledger(tmp_path)[0].outcomes


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "no command has run units here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_command_in_the_background_goes_on_alone_and_a_busy_workspace_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: tiny\ndatasets: {a: {path: nowhere, modality: mr, foreground: [1]}}\n"
        "source: {dataset: a, patients: 2}\ntarget: {dataset: a, pool: 2, test: 1}\ntarget_training: {sizes: [1]}\n"
    )
    folder = tmp_path / "w"
    run = ["run", str(study), "--workspace", str(folder), "--detach"]
    with Workspace(folder).lock():
        assert main(run) == 2
    assert "another graft command is working in this folder" in capsys.readouterr().err
    assert main(run) == 0
    process = int(capsys.readouterr().out.split()[1])
    end = time.monotonic() + 60
    while not os.waitpid(process, os.WNOHANG)[0]:
        assert time.monotonic() < end or os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    # It ends with the sentence of the command: the scans are not there.
    assert "nowhere" in (folder / "run.log").read_text()
