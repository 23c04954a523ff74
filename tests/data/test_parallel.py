"""Workers serve several calls, each with its own folder for relative paths, and end with their command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.parallel import in_workers


@pytest.mark.parametrize("jobs", [1, 2])
def test_relative_paths_begin_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        calls = [(f"file-{number}",) for number in range(4)]
        found = list(in_workers(os.path.abspath, calls, jobs, ordered=True))
        assert found == [str(tmp_path / name / file) for (file,) in calls]


_KILLED = """
import os, sys, time
from data.parallel import in_workers

def large(number):
    print(os.getpid(), flush=True)
    time.sleep(1)
    return bytes(10_000_000)

if __name__ == "__main__":
    for _ in in_workers(large, [(number,) for number in range(2)], 2):
        time.sleep(60)
"""


def _lives(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_of_a_killed_command_do_not_wait_for_somebody_who_takes_their_results(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(_KILLED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, tmp_path / "command.py"], env=environment, stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        workers = [int(command.stdout.readline()) for _ in range(2)]
        command.kill()
    end = time.monotonic() + 60
    try:
        while any(_lives(worker) for worker in workers):
            assert time.monotonic() < end, "a worker outlives its command"
            time.sleep(0.1)
    finally:
        for worker in workers:
            if _lives(worker):
                os.kill(worker, signal.SIGKILL)
