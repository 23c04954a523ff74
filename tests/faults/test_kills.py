"""`kill -9` at random moments, of the command, a worker or all of them: the study resumes to the same result.

Kills of the command in chosen moments are in `tests/integration/test_interrupted_study.py`, kills of a worker in
`tests/pipeline/test_units.py`; these take too long for `make test`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("GRAFT_FAULTS") != "all", reason="only `make faults` kills studies at random"),
]

_ROUNDS = 45
_GRACE = 20.0
"""Seconds in which the workers of a killed command notice that it is gone."""


def _kill(victim: str, process: subprocess.Popen[str], commands: Any, draw: random.Random) -> None:
    """Kills the command, one of its workers, or all of its processes."""
    workers = [number for number, line in commands.alive().items() if "LokyProcess" in line]
    if victim == "tree":
        os.killpg(process.pid, signal.SIGKILL)
    elif victim == "worker" and workers:
        os.kill(draw.choice(workers), signal.SIGKILL)
    else:
        process.kill()


def _all_gone(commands: Any) -> bool:
    end = time.monotonic() + _GRACE
    while commands.alive() and time.monotonic() < end:
        time.sleep(0.1)
    return not commands.alive()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", range(_ROUNDS))
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_bytes(
    finished_study: Any,
    commands: Any,
    contents: Callable[[Path], dict[str, str]],
    leftovers: Callable[[Path], list[str]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    number: int,
) -> None:
    expected = contents(finished_study.workspace)
    draw = random.Random(number)
    workspace = tmp_path / "killed"
    ended, kills = False, 0
    for _ in range(4):
        if ended:
            break
        process = commands.start("run", finished_study.config, "--workspace", workspace, "--jobs", "2")
        victim = draw.choice(("command", "worker", "tree"))
        try:
            # The first seconds are imports, in which there is nothing to lose.
            process.wait(draw.uniform(0.1, 0.8) * finished_study.seconds)
        except subprocess.TimeoutExpired:
            _kill(victim, process, commands, draw)
            kills += 1
        _, error = process.communicate(timeout=600)
        # A study whose worker was killed continues by itself.
        ended = process.returncode == 0
        assert ended or process.returncode in {-signal.SIGKILL, 2}, error
        assert "Traceback" not in error
        assert _all_gone(commands), commands.alive()
    # With `--junitxml` the report says how many there were.
    record_property("kills", kills)
    code, error = commands.run("run", finished_study.config, "--workspace", workspace, "--jobs", "2")
    assert code == 0, error
    found = contents(workspace)
    assert found.keys() == expected.keys()
    assert {name for name in expected if found[name] != expected[name]} == set()
    assert leftovers(workspace) == []
    assert _all_gone(commands), commands.alive()
    assert commands.shared_memory() == []
