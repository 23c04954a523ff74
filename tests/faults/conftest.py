"""Commands as processes of their own, and what they leave behind.

`make test` tries a few moments and stages; `make faults` sets `GRAFT_FAULTS=all` and tries all of them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

THOROUGH = os.environ.get("GRAFT_FAULTS") == "all"
_MARK = "GRAFT_FAULT_RUN"
_SHARED_MEMORY = Path("/dev/shm")
# Times, machines and speeds are not functions of the seed.
_OF_THE_RUN = {
    "done.json",
    "speed.jsonl",
    "provenance.json",
    "summary.json",
    "file-digests.json",
    "config.resolved.yaml",
    ".lock",
}
_FOLDERS_OF_THE_RUN = {"report", "tracking", "units"}


@dataclass
class Commands:
    """Starts `graft` in processes that carry a mark, by which everything that they leave is found again."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    seen: set[int] = field(default_factory=set)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Starts a command in a session of its own."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", _MARK: self.mark, "COLUMNS": "400"}
        command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.seen.add(process.pid)
        return process

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        """Runs a command to its end; returns exit code and standard error."""
        process = self.start(*arguments)
        _, error = process.communicate(timeout=600)
        return process.returncode, error

    def alive(self) -> dict[int, str]:
        """The processes that these commands started and that still live: number → command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                marked = f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            # A zombie waits for its parent and has no command line.
            if marked and line:
                found[int(folder.name)] = line
        self.seen |= set(found)
        return found

    def shared_memory(self) -> list[str]:
        """What these processes left in shared memory; its names carry their numbers."""
        if not _SHARED_MEMORY.is_dir():
            return []
        numbers = {str(number) for number in self.seen}
        return [p.name for p in _SHARED_MEMORY.iterdir() if numbers & set(p.name.replace("_", "-").split("-"))]


def _contents(workspace: Path) -> dict[str, str]:
    return {
        str(path.relative_to(workspace)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workspace.rglob("*"))
        if path.is_file()
        and path.name not in _OF_THE_RUN
        and not _FOLDERS_OF_THE_RUN & set(path.relative_to(workspace).parts)
    }


def _leftovers(workspace: Path) -> list[str]:
    hidden = (p for p in workspace.rglob(".*") if p.name != ".lock" and not (p.is_dir() and not any(p.iterdir())))
    return [str(p.relative_to(workspace)) for p in hidden]


@pytest.fixture(scope="session")
def thorough() -> bool:
    """Whether all moments and stages are tried, or a few."""
    return THOROUGH


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """Returns a function: workspace → digest of each file that the seed decides."""
    return _contents


@pytest.fixture(scope="session")
def leftovers() -> Callable[[Path], list[str]]:
    """Returns a function: workspace whose command has ended → temporary and unfinished things in it."""
    return _leftovers


@pytest.fixture
def commands() -> Iterator[Commands]:
    """Commands whose processes are ended after the test, whatever happened."""
    own = Commands()
    yield own
    for number in own.alive():
        os.kill(number, 9)
