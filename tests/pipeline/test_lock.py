"""One command at a time, also where the disk has no locks, and nothing is left of a lock."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import WorkspaceError
from pipeline.storage.lock import LOCK, OWNER, only_command

ROOT = Path(__file__).parents[2]
_KILLED = """
import os, sys
from pathlib import Path
from pipeline.storage.lock import only_command
with only_command(Path(sys.argv[1])):
    os._exit(9)
"""
_KILLED_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from pipeline.storage.lock import only_command
with only_command(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        # What is done after a fork is done now.
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    os._exit(9)
"""
_REFUSALS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.fixture(params=[None, *_REFUSALS], ids=["flock", "ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder on a disk with locks, or on one that refuses them."""

    def refuse(*arguments: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param is not None:
        monkeypatch.setattr(fcntl, "flock", refuse)
    return tmp_path


def dead_process() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def owner(process: int, host: str = socket.gethostname()) -> str:
    return json.dumps({"host": host, "process": process})


def test_a_second_command_is_refused_and_nothing_is_left(disk: Path) -> None:
    for _ in range(2):
        with only_command(disk):
            sentence = (
                rf"another graft command is working.*process {os.getpid()} on {socket.gethostname()}.*wait for it"
            )
            with pytest.raises(WorkspaceError, match=sentence), only_command(disk):
                pass
            assert list(disk.iterdir()), "the refused one took the lock away"
        assert not list(disk.iterdir())


def test_an_error_frees_the_folder(disk: Path) -> None:
    with pytest.raises(RuntimeError), only_command(disk):
        raise RuntimeError
    assert not list(disk.iterdir())


def test_a_killed_command_is_noticed_once(tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], cwd=ROOT)
    command.wait()
    assert (tmp_path / LOCK).exists()
    seen: list[int] = []
    for _ in range(2):
        with only_command(tmp_path, seen.append):
            pass
    assert seen == [command.pid]


def test_what_a_killed_command_forked_does_not_keep_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED_WITH_A_CHILD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait()
        try:
            with only_command(tmp_path):
                os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


def refuse_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_a_dead_command_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_locks(monkeypatch)
    dead = dead_process()
    (tmp_path / OWNER).write_text(owner(dead))
    seen: list[int] = []
    with caplog.at_level(logging.INFO), only_command(tmp_path, seen.append):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
    assert seen == [dead]
    assert "this disk does not support locks" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_locks_a_command_of_another_machine_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_locks(monkeypatch)
    (tmp_path / OWNER).write_text(owner(dead_process(), "node7"))
    sentence = r"on node7.*if that command is gone, delete .*\.lock-owner"
    with pytest.raises(WorkspaceError, match=sentence), only_command(tmp_path):
        pass
    # Nor is one that cannot be read, as while it is being written.
    (tmp_path / OWNER).write_text("")
    with pytest.raises(WorkspaceError, match="another graft command"), only_command(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WorkspaceError, match=r"cannot be written \(Read-only file system\)"), only_command(tmp_path):
        pass
