"""Jobs on a pretended cluster: which units share one, what is submitted again, and what is said of a death."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pytest

from pipeline.execution.backend import Work
from pipeline.execution.backend_options import SubmititOptions
from pipeline.execution.cluster.chunks import chunked
from pipeline.execution.cluster.job_files import JOBS, JobBook, JobEvents
from pipeline.execution.cluster.job_run import JobRun
from pipeline.execution.cluster.node_facts import NodeError, NodeFacts, Probe
from pipeline.execution.cluster.scheduler import Cause, Death, QueuedJob, SchedulerError
from pipeline.execution.cluster.slurm import Slurm, death_of
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.cluster.units_job import UnitsJob
from pipeline.execution.progress import ProgressFile, progress_file
from pipeline.execution.stopping import StopRequestedError
from pipeline.execution.unit import Outcome, Unit, is_done
from pipeline.execution.worker import run_unit
from pipeline.storage.workspace import Workspace

STAGE = "stage"


def write_text(folder: Path, progress: ProgressFile) -> None:
    (folder / "text").write_text("text")


def unit(name: str, size: float = 1.0, resumable: bool = False) -> Unit:
    return Unit(STAGE, name, {}, write_text, size=size, resumable=resumable)


def keys(chunks: Sequence[Sequence[Unit]]) -> list[list[str]]:
    return [[own.key for own in chunk] for chunk in chunks]


def test_short_units_share_a_job_and_long_ones_have_their_own() -> None:
    units = [unit("long", 20), unit("a", 4), unit("b", 4), unit("c", 3), unit("d", 1)]
    # 60 s for each unit of size.
    assert keys(chunked(units, 60.0, 10, 100, 1)) == [["long"], ["a", "b"], ["c", "d"]]
    assert keys(chunked(units, 60.0, 0, 100, 1)) == [["long"], ["a"], ["b"], ["c"], ["d"]]
    # Two at a time take half as long.
    assert keys(chunked(units, 60.0, 10, 100, 2)) == [["long", "a"], ["b", "c", "d"]]


def test_without_experience_the_jobs_of_a_time_share_the_units_and_trainings_stay_alone() -> None:
    assert [len(chunk) for chunk in chunked([unit(str(i)) for i in range(2000)], None, 15, 100, 1)] == [20] * 100
    assert len(chunked([unit(str(i), resumable=True) for i in range(8)], None, 15, 2, 1)) == 8


@pytest.mark.parametrize(
    ("state", "code", "cause"),
    [
        ("OUT_OF_MEMORY", "0:125", Cause.MEMORY),
        ("TIMEOUT", "0:0", Cause.TIME),
        ("NODE_FAIL", "0:0", Cause.NODE),
        ("CANCELLED by 1000", "0:15", Cause.CANCELLED),
        ("CANCELLED", "0:15", Cause.CANCELLED),
        ("PREEMPTED", "0:0", Cause.CANCELLED),
        ("FAILED", "137:0", Cause.KILLED),
        ("FAILED", "0:9", Cause.KILLED),
        ("FAILED", "1:0", Cause.ENDED),
        ("", "", Cause.UNKNOWN),
    ],
)
def test_the_reason_of_a_death_is_told_apart(state: str, code: str, cause: Cause) -> None:
    death = death_of(state, code)
    assert death.cause is cause
    assert len({death_of(other, "0:0").words for other in ("TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED")}) == 4


class PretendedCluster:
    """Takes jobs, runs each when it is asked for the queue, and lets some die."""

    def __init__(self, deaths: Sequence[Death] = (), largest: int | None = None, before: Sequence[str] = ()) -> None:
        self.submissions: list[tuple[str, list[str]]] = []
        self.cancelled: list[str] = []
        self.deaths = list(deaths)
        self.largest = largest
        self.living = {job: (lambda: None) for job in before}
        self.names: dict[str, str] = {}
        self.refuses = ""
        self._number = 100

    def submit(self, calls: Sequence[Callable[[], None]], name: str) -> list[str]:
        if self.refuses:
            raise SchedulerError(self.refuses)
        self._number += 1
        numbers = [f"{self._number}_{k}" for k in range(len(calls))] if len(calls) > 1 else [str(self._number)]
        self.submissions.append((name, numbers))
        self.living |= dict(zip(numbers, calls, strict=True))
        return numbers

    def log(self, job: str) -> Path:
        return Path(f"/logs/{job}")

    def queue(self) -> list[QueuedJob]:
        found = [QueuedJob(job, self.names.get(job, ""), "RUNNING") for job in self.living]
        for job, call in list(self.living.items()):
            call()
            del self.living[job]
        return found

    def death(self, job: str) -> Death:
        return self.deaths.pop(0)

    def cancel(self, jobs: Collection[str]) -> None:
        self.cancelled += jobs

    def largest_array(self) -> int | None:
        return self.largest


def jobs_of(
    tmp_path: Path,
    units: Sequence[Unit],
    cluster: PretendedCluster,
    dying: Collection[str] = (),
    **options: object,
) -> JobRun:
    """Jobs for units, of which some die when they are run, leaving a progress file."""
    workspace, progress = Workspace(tmp_path), tmp_path / ".progress"
    progress.mkdir(exist_ok=True)
    work = Work(STAGE, units, workspace, progress, siblings=units)
    left = list(dying)

    def make_call(own: Sequence[Unit], events: JobEvents) -> Callable[[], None]:
        def call() -> None:
            events.begin("1", "node")
            for each in own:
                if each.key in left:
                    left.remove(each.key)
                    progress_file(progress, each.key).write_text("0")
                    return
                events.end_unit(run_unit(*work.call(each)))

        return call

    settings = SubmititOptions.model_validate({"poll_seconds": 0.01, **options})
    return JobRun(work, settings, 1, cluster, cluster, JobBook(tmp_path / JOBS), make_call)  # type: ignore[arg-type]


def ended(run: JobRun) -> dict[str, Outcome]:
    outcomes = list(run.outcomes())
    assert len({outcome.key for outcome in outcomes}) == len(outcomes)
    return {outcome.key: outcome for outcome in outcomes}


def test_what_a_dead_job_left_is_submitted_again_and_its_victim_alone(tmp_path: Path) -> None:
    cluster = PretendedCluster([Death(Cause.NODE, "lost its node")])
    units = [unit(name) for name in "abcd"]
    outcomes = ended(jobs_of(tmp_path, units, cluster, dying=["b"], concurrent_jobs=2))
    assert {outcome.state for outcome in outcomes.values()} == {"done"}
    # Two jobs of two; a was done before b died, which is then alone.
    assert [len(numbers) for _, numbers in cluster.submissions] == [2, 1]
    assert all(is_done(own, Workspace(tmp_path)) for own in units)
    assert not JobBook(tmp_path / JOBS).open_jobs()


def test_a_unit_that_loses_its_process_again_and_again_has_failed(tmp_path: Path) -> None:
    cluster = PretendedCluster([Death(Cause.KILLED, "was killed")] * 2)
    outcomes = ended(jobs_of(tmp_path, [unit("a"), unit("b")], cluster, dying=["a", "a"], attempts=2, chunk_minutes=0))
    assert outcomes["b"].state == "done"
    assert outcomes["a"].state == "failed"
    assert "was killed, like its jobs before (2 in all); to fix it, raise `memory_gb`" in outcomes["a"].message
    assert "its log is /logs/102" in outcomes["a"].message


def test_too_little_memory_is_not_tried_again(tmp_path: Path) -> None:
    cluster = PretendedCluster([Death(Cause.MEMORY, "used more memory than it had asked for")])
    outcomes = ended(jobs_of(tmp_path, [unit("a")], cluster, dying=["a"]))
    assert outcomes["a"].message.startswith(
        "its job 101 used more memory than it had asked for; to fix it, raise `memory_gb`, or use smaller patches"
    )
    assert len(cluster.submissions) == 1


def test_jobs_of_an_earlier_command_are_taken_over_or_cancelled(tmp_path: Path) -> None:
    book = JobBook(tmp_path / JOBS)
    same, other = unit("same"), dataclasses.replace(unit("other"), recipe={"changed": True})
    [known, unknown] = book.plan(STAGE, [[same], [unit("third")]])
    known.job = "7_0"
    # The command was killed before it noted the number of the second one.
    book.submitted([known])
    [stale] = book.plan(STAGE, [[unit("other")]])
    stale.job = "8"
    book.submitted([stale])
    cluster = PretendedCluster(before=["7_0", "7_1", "8"])
    cluster.names = {"7_0": known.token, "7_1": unknown.token}
    run = jobs_of(tmp_path, [same, unit("third"), other], cluster)
    assert run.adopt() == 1, "only the unit with other settings is to be submitted"
    assert cluster.cancelled == ["8"]
    assert [job.job for job in book.open_jobs()] == ["7_0", "7_1"]
    # What happened while there was no command is heard.
    book.events(known).end_unit(Outcome("same", "failed", message="is corrupt"))
    third = run_unit(unit("third"), tmp_path / STAGE / "third", tmp_path / ".progress" / "third", 1)
    assert third.state == "done"
    outcomes = ended(run)
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        "same": "failed", "third": "done", "other": "done",
    }  # fmt: skip


def test_a_refusal_is_an_error_while_nothing_runs(tmp_path: Path) -> None:
    cluster = PretendedCluster()
    cluster.refuses = "SLURM refuses the jobs: too many"
    with pytest.raises(SchedulerError, match="too many"):
        ended(jobs_of(tmp_path, [unit("a")], cluster))
    assert not JobBook(tmp_path / JOBS).open_jobs()


def test_a_unit_is_done_when_its_marker_is_seen_whatever_its_job_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def late(own: Unit, workspace: Workspace) -> bool:
        seen.append(is_done(own, workspace))
        return len(seen) > 5 and seen[-1]

    monkeypatch.setattr("pipeline.execution.cluster.job_run.is_done", late)
    assert ended(jobs_of(tmp_path, [unit("a")], PretendedCluster()))["a"].state == "done"
    assert len(seen) == 6


def test_arrays_are_split_at_the_limit_of_the_cluster(tmp_path: Path) -> None:
    cluster = PretendedCluster(largest=3)
    ended(jobs_of(tmp_path, [unit(str(i)) for i in range(8)], cluster, chunk_minutes=0))
    assert [len(numbers) for _, numbers in cluster.submissions] == [3, 3, 2]


def test_a_machine_without_a_scheduler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SchedulerError, match=r"no `sbatch`.*use `execution.backend: local`"):
        Slurm()


def test_a_node_without_the_workspace_or_with_another_graft_is_refused(tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.touch()
    probe = Probe(known, tmp_path / "answer.json", None)
    assert probe.read() is None
    probe()
    mine, there = NodeFacts.here(known), probe.read()
    assert there == mine
    mine.require_same(there, tmp_path)
    with pytest.raises(NodeError, match=r"node .* does not see this workspace.*--workspace"):
        mine.require_same(dataclasses.replace(mine, sees=False), tmp_path)
    with pytest.raises(NodeError, match=r"another Graft \(version 0.0.1.*execution.submitit.python"):
        mine.require_same(dataclasses.replace(mine, version="0.0.1"), tmp_path)
    with pytest.raises(NodeError, match="the same version with other code"):
        mine.require_same(dataclasses.replace(mine, code="x"), tmp_path)


def test_a_node_that_writes_nothing_does_not_see_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.cluster.submitit_backend._PATIENCE", 0.0)
    cluster = PretendedCluster([Death(Cause.ENDED, "ended with an error")])
    cluster.submit = lambda calls, name: ["5"]  # type: ignore[method-assign]
    workspace = Workspace(tmp_path)
    work = Work(STAGE, [unit("a")], workspace, tmp_path / ".progress")
    options = SubmititOptions(poll_seconds=0.01)
    with pytest.raises(NodeError, match="the node of job 5 does not see this workspace"):
        SubmititBackend(options)._probe(work, cluster, cluster, options)  # type: ignore[arg-type]


def dawdle(folder: Path, progress: ProgressFile, *, log: Path) -> None:
    log.touch()
    while True:
        progress(0.5)
        os.kill(os.getpid(), signal.SIGUSR2)


def save(folder: Path, progress: ProgressFile, *, log: Path) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    if progress.stop_requested:
        (folder / "state").touch()
        raise StopRequestedError("stopped")


@pytest.mark.parametrize(("work", "resumable"), [(dawdle, False), (save, True)])
def test_a_job_out_of_time_is_queued_again_unless_its_unit_would_begin_anew(
    work: Callable[..., None], resumable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "9")
    monkeypatch.setattr("pipeline.execution.stopping._signalled.is_set", lambda: bool(heard))
    heard: list[int] = []
    monkeypatch.setattr("pipeline.execution.stopping._signalled.set", lambda: heard.append(1))
    again: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, lambda number, frame: again.append(number))
    own = Unit(STAGE, "a", {}, work, {"log": tmp_path / "log"}, resumable=resumable)
    (tmp_path / "w" / ".progress").mkdir(parents=True)
    events = JobEvents(tmp_path / "events")
    try:
        # All of its tiny limit has gone by when the signal comes.
        job = UnitsJob(STAGE, [own], tmp_path / "w", tmp_path / "w/.progress", 1, 1, events.path, None, 1e-9)
        job()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    outcomes = events.new_outcomes()
    if resumable:
        assert not outcomes
        assert again == [signal.SIGUSR2]
        assert events.was_interrupted
    else:
        assert not again
        assert "not done within" in outcomes[0].message
        assert "raise `execution.submitit.minutes`" in outcomes[0].message
