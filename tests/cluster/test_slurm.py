"""Jobs on a real SLURM: cancelled, killed, out of time, without their command; what they make stays the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.arms.training_unit import train_member
from pipeline.execution.backend_options import SubmititOptions
from pipeline.execution.cluster.job_files import JOBS, JobBook
from pipeline.execution.cluster.scheduler import SchedulerError
from pipeline.execution.cluster.slurm import Slurm
from pipeline.execution.cluster.submitit_backend import SubmititBackend
from pipeline.execution.progress import ProgressFile
from pipeline.execution.unit import MARKER, Unit
from pipeline.execution.units import Execution, run_units
from pipeline.storage.line_file import read_lines
from pipeline.storage.workspace import Workspace
from tests.cluster import stepping

ROOT = Path(__file__).parents[2]
COMMAND = Path(__file__).parent / "stepping.py"
STAGE = "stepping"
QUICK = {"poll_seconds": 0.5, "memory_gb": 0.5, "chunk_minutes": 0, "signal_seconds": 30}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("GRAFT_FAULTS") != "all", reason="starts a SLURM and takes long: only with `make faults`"
    ),
]


class Command:
    """The command of `stepping.py`."""

    def __init__(
        self,
        root: Path,
        count: int = 2,
        steps: int = 20,
        seconds: float = 0.2,
        training: bool = False,
        **options: Any,
    ) -> None:
        self.root, self.count, self.steps = root, count, steps
        settings = {
            "count": count, "steps": steps, "seconds": seconds, "training": training, "options": QUICK | options,
        }  # fmt: skip
        self._words = [sys.executable, str(COMMAND), str(root), json.dumps(settings)]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            self._words, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def outcomes(self, timeout: float = 580) -> list[list[str]]:
        assert self.process is not None
        out, error = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, error
        return json.loads(out.splitlines()[-1])

    def states(self, timeout: float = 580) -> list[str]:
        return [state for _, state, _ in self.outcomes(timeout)]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def logged(self) -> Counter[str]:
        """How often each step was taken."""
        log = self.root / "steps.log"
        return Counter(log.read_text().splitlines()) if log.exists() else Counter()

    def jobs(self) -> list[str]:
        return [job.job for job in JobBook(self.root / JOBS).jobs(STAGE) if job.job]

    def wait_for_steps(self, number: int, seconds: float = 120) -> None:
        wait_for(lambda: len(self.logged()) >= number, seconds)

    def expected(self) -> list[str]:
        """What the units of an undisturbed run write."""
        values = []
        for value in range(self.count):
            for _ in range(self.steps):
                value = (1103515245 * value + 12345) % 2**31
            values.append(str(value))
        return values

    def written(self) -> list[str]:
        return [(self.root / STAGE / f"unit-{number}" / "value.txt").read_text() for number in range(self.count)]

    def process_of_a_job(self) -> int:
        """The process of the job that began last."""
        begun = [
            line
            for path in (self.root / JOBS / STAGE).glob("*.events.jsonl")
            for line in read_lines(path)
            if "begin" in line
        ]
        return int(max(begun, key=lambda line: int(str(line["begin"]).partition("_")[0]))["process"])


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.1)


@pytest.fixture
def make_command(tmp_path: Path, slurm: Callable[..., str]) -> Iterator[Callable[..., Command]]:
    """Returns a function that makes a command, which does not outlive the test."""
    made: list[Command] = []

    def make(**settings: Any) -> Command:
        made.append(Command(tmp_path / "w", **settings))
        return made[-1]

    yield make
    for own in made:
        if own.process is not None and own.process.poll() is None:
            own.kill()
    slurm("scancel", "--me")


@pytest.fixture
def command(make_command: Callable[..., Command]) -> Command:
    return make_command()


def test_what_happens_to_jobs_and_to_the_command_costs_no_step(command: Command, slurm: Callable[..., str]) -> None:
    command.start()
    command.wait_for_steps(4)
    # The command dies, and its jobs go on; a second command takes them over.
    command.kill()
    before = command.jobs()
    command.wait_for_steps(8)
    command.start()
    wait_for(lambda: (command.root / ".lock").exists())
    time.sleep(1.5)
    assert command.jobs() == before, "running jobs were submitted again"
    # Somebody cancels a job: it saves, and its unit goes on in another one.
    slurm("scancel", before[0])
    wait_for(lambda: len(command.jobs()) > len(before))
    assert command.states() == ["done", "done"]
    assert command.written() == command.expected()
    assert set(command.logged().values()) == {1}, "a step was taken twice"
    assert len(command.logged()) == 40


def test_a_killed_process_is_replaced(command: Command, slurm: Callable[..., str]) -> None:
    command.start()
    command.wait_for_steps(3)
    os.kill(command.process_of_a_job(), signal.SIGKILL)
    assert command.states() == ["done", "done"]
    assert command.written() == command.expected()
    # At most the step in which it was killed.
    assert sum(command.logged().values()) <= 41


def test_an_unknown_partition_is_refused_in_the_words_of_the_scheduler(
    slurm: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(SchedulerError, match="invalid partition specified: nowhere"):
        run_alone(tmp_path, partition="nowhere")
    assert not slurm("squeue", "-h")
    assert not (tmp_path / ".progress").exists()


def test_arrays_are_no_longer_than_the_cluster_allows(slurm: Callable[..., str], tmp_path: Path) -> None:
    assert Slurm().largest_array() == 4
    assert run_alone(tmp_path, count=6) == ["done"] * 6
    submissions = Counter(job.token for job in JobBook(tmp_path / JOBS).jobs("stage"))
    assert sorted(submissions.values()) == [2, 4]


def run_alone(root: Path, count: int = 1, **options: Any) -> list[str]:
    """Runs units that take no time; returns their states."""
    units = [Unit("stage", str(number), {}, write_text) for number in range(count)]
    backend = SubmititBackend(SubmititOptions(**(QUICK | options)))
    return [outcome.state for outcome in run_units("stage", units, Workspace(root), Execution(1, 1, backend)).outcomes]


def write_text(folder: Path, progress: ProgressFile) -> None:
    (folder / "text").write_text("text")


write_text.__module__ = "__main__"


@pytest.mark.timeout(600)
def test_a_job_that_needs_longer_than_it_may_saves_and_is_queued_again(make_command: Callable[..., Command]) -> None:
    # SLURM counts in minutes, and keeps a job that was queued again waiting for two.
    command = make_command(count=1, steps=90, seconds=0.5, minutes=1, signal_seconds=20)
    command.start()
    assert command.states() == ["done"]
    assert command.written() == command.expected()
    assert set(command.logged().values()) == {1}
    assert len(command.jobs()) == 1, "the job was not queued again, but submitted"


@pytest.mark.timeout(1500)
def test_a_training_of_infer_outlives_a_cancelled_job_a_killed_process_and_its_time_limit(
    tmp_path: Path, slurm: Callable[..., str], make_command: Callable[..., Command]
) -> None:
    # They take longer than a job, which is told to save after two minutes.
    steps = 600
    command = make_command(count=1, steps=steps, training=True, minutes=3, signal_seconds=60)
    command.start()
    command.wait_for_steps(50, seconds=400)
    slurm("scancel", command.jobs()[-1])
    # Its time limit may come before: then the job waits for two minutes.
    command.wait_for_steps(150, seconds=400)
    # It had saved when it was cancelled.
    assert set(command.logged().values()) == {1}
    os.kill(command.process_of_a_job(), signal.SIGKILL)
    assert command.states(1400) == ["done"]
    assert command.logged().keys() == {str(step) for step in range(1, 2 * steps + 1)}
    assert sum(command.logged().values()) <= 2 * steps + stepping.CHECKPOINT_STEPS
    whole, made = tmp_path / "whole", command.root / STAGE / "unit-0"
    whole.mkdir()
    task, settings = stepping.training_task(command.root), stepping.training_settings(steps)
    train_member(whole, ProgressFile(tmp_path / "progress", saves=True), task=task, settings=settings)
    assert {path.name for path in made.iterdir()} == {MARKER, *(path.name for path in whole.iterdir())}
    for path in whole.iterdir():
        assert (made / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.timeout(600)
def test_a_drained_node_delays_and_nothing_else(command: Command, slurm: Callable[..., str]) -> None:
    host = slurm("sinfo", "-h", "-o", "%n").strip()
    slurm("scontrol", "update", f"nodename={host}", "state=drain", "reason=test")
    command.start()
    time.sleep(5)
    assert not command.logged()
    slurm("scontrol", "update", f"nodename={host}", "state=resume")
    assert command.states() == ["done", "done"]
    assert command.written() == command.expected()


@pytest.mark.timeout(900)
def test_a_study_on_slurm_has_the_bytes_of_one_on_this_machine(
    slurm: Callable[..., str], finished_study: Any, tmp_path: Path
) -> None:
    settings = [
        "execution.backend=submitit",
        "execution.submitit.poll_seconds=0.5",
        "execution.submitit.memory_gb=2",
        "execution.submitit.concurrent_jobs=2",
        "execution.workers=0",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    run = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run", finished_study.config, "--workspace", tmp_path / "w", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert run.returncode == 0, run.stderr
    stored = sorted(finished_study.workspace.rglob("*.safetensors"))
    assert stored
    for path in (*stored, *(finished_study.workspace / "results").glob("*.csv")):
        assert (tmp_path / "w" / path.relative_to(finished_study.workspace)).read_bytes() == path.read_bytes(), path
