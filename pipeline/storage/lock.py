"""One command at a time in a folder.

The lock is the system's (`flock`), which is released however a command ends. Where a network disk does not support it,
a file with the host and process of its owner takes its place, created in an atomic step. The lock file is removed when
the command ends; a remaining one shows that its command was killed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from data.errors import WorkspaceError
from pipeline.storage.atomic import process_lives

logger = logging.getLogger(__name__)

LOCK = ".lock"
OWNER = ".lock-owner"
"""Replaces the lock where the disk does not support it."""
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}


@contextmanager
def only_command(folder: Path, on_killed: Callable[[int], None] = lambda process: None) -> Iterator[None]:
    """Holds a folder for one command.

    Args:
        folder: the folder.
        on_killed: called with the process of an earlier command of this machine that was killed while using the folder.

    Raises:
        WorkspaceError: another command holds the folder, or it cannot be written.
    """
    try:
        stream = _locked(folder)
    except BlockingIOError as error:
        raise _in_use(folder, _read(folder / LOCK)) from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise WorkspaceError(
                f"{folder}: the folder cannot be written ({error.strerror})",
                expected="a folder that can be written",
                fix="name another",
            ) from error
        (folder / LOCK).unlink(missing_ok=True)
        logger.info(
            "%s: this disk does not support locks (%s); the file %s replaces one", folder, error.strerror, OWNER
        )
        with _owner_file(folder, on_killed):
            yield
        return
    with stream, _not_by_children(stream):
        try:
            before = _read(folder / LOCK)
            if _is_dead(before):
                on_killed(int(before["process"]))
            stream.truncate(0)
            stream.write(_about_me())
            stream.flush()
            yield
        finally:
            # While the lock is held: a command that opened the file before sees that its name is gone and tries again.
            (folder / LOCK).unlink(missing_ok=True)


_held: set[IO[str]] = set()


def _let_go_in_child() -> None:
    for stream in _held:
        stream.close()


# A lock belongs to all processes that have the file open: a loader of batches, which lives for seconds after its
# command was killed, would keep the folder from the next one.
os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def _not_by_children(stream: IO[str]) -> Iterator[None]:
    """Leaves the lock to this process alone, whatever it forks."""
    _held.add(stream)
    try:
        yield
    finally:
        _held.discard(stream)


def working_command(folder: Path) -> tuple[str, int] | None:
    """Host and process of the command that works in a folder; `None` if there is none.

    The lock itself is not tried: that would refuse a command that starts at this moment.
    """
    found = _read(folder / LOCK) or _read(folder / OWNER)
    return (found["host"], found["process"]) if found and not _is_dead(found) else None


def _locked(folder: Path) -> IO[str]:
    """Opens and locks the lock file.

    Raises:
        BlockingIOError: another command holds it.
        OSError: the folder cannot be written, or its disk does not support locks.
    """
    while True:
        stream = (folder / LOCK).open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(stream.fileno())
            with suppress(FileNotFoundError):
                there = (folder / LOCK).stat()
                if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                    return stream
        except BaseException:
            stream.close()
            raise
        stream.close()


@contextmanager
def _owner_file(folder: Path, on_killed: Callable[[int], None]) -> Iterator[None]:
    path = folder / OWNER
    while not _claimed(path):
        owner = _read(path)
        if not _is_dead(owner):
            raise _in_use(folder, owner)
        _take_away(path, owner)
        on_killed(int(owner["process"]))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _claimed(path: Path) -> bool:
    """Makes the file, unless it exists."""
    # Written under another name first, so that nobody reads half of it; creating a link is atomic, also on NFS.
    own = path.with_name(f"{path.name}-{socket.gethostname()}-{os.getpid()}")
    own.write_text(_about_me())
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True


def _take_away(path: Path, owner: dict[str, Any]) -> None:
    """Removes the file of a dead command, but never one that another command made meanwhile."""
    taken = path.with_name(f"{path.name}-taken-{socket.gethostname()}-{os.getpid()}")
    with suppress(FileNotFoundError):
        os.rename(path, taken)
        if _read(taken) != owner:
            with suppress(FileExistsError):
                os.link(taken, path)
        taken.unlink()


def _about_me() -> str:
    return json.dumps({"host": socket.gethostname(), "process": os.getpid()})


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {"host": str(found["host"]), "process": int(found["process"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that has ended; nothing is known about other machines."""
    return bool(owner) and owner["host"] == socket.gethostname() and not process_lives(owner["process"])


def _in_use(folder: Path, owner: dict[str, Any]) -> WorkspaceError:
    who = f" (process {owner['process']} on {owner['host']})" if owner else ""
    fix = "wait for it, or name another folder"
    if owner and owner["host"] != socket.gethostname():
        fix += f"; if that command is gone, delete {folder / OWNER}"
    return WorkspaceError(
        f"{folder}: another graft command is working in this folder{who}", expected="one command at a time", fix=fix
    )
