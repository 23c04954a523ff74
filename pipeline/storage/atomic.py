"""Atomic writes: a file or new folder either exists completely under its name or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.stored_record import StoredRecord

TEMPORARY = ".graft-tmp-"
"""Start of the name of everything unfinished; process, target and a random part follow."""
_NAME = re.compile(re.escape(TEMPORARY) + r"(?P<process>\d+)-(?P<target>[0-9a-f]{8})-[a-z0-9_]{8}")


def _prefix(path: Path) -> str:
    # Not the name itself: with a name of 250 letters, the temporary one would be too long for the system.
    return f"{TEMPORARY}{os.getpid()}-{_target(path)}-"


def _target(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]


def followed(path: Path) -> Path:
    """The target of a link, so that writing replaces the target and not the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """Yields a temporary name in the same folder; on success it is renamed to `path`, on failure removed."""
    path = followed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a workspace is shared like any other file of the user.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a finished file a second name, or copies it if the disk does not support links.

    For files that are replaced as a whole and never written into.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    r"""Writes a text file atomically (UTF-8).

    File names that are not UTF-8 reach Python as lone surrogates; they are written as `\udcXX`, which JSON reads back
    unchanged.
    """
    with temporary_sibling(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically, keys sorted, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_record(path: Path, record: StoredRecord) -> None:
    """Writes a record and its version atomically."""
    write_json(path, record.as_json())


@contextmanager
def _temporary_folder(where: Path, target: Path) -> Iterator[Path]:
    where.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=where, prefix=_prefix(target)))
    try:
        # mkdtemp makes folders private; the group inherited from the parent (setgid) stays.
        temporary.chmod(0o777 & ~_umask() | temporary.stat().st_mode & stat.S_ISGID)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder; on success it is renamed to `folder`.

    Raises:
        OSError: `folder` exists and is not empty.
    """
    with _temporary_folder(folder.parent, folder) as temporary:
        yield temporary
        os.rename(temporary, folder)


@contextmanager
def temporary_room(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder for files that are moved to `folder`; what is left at the end is removed.

    It lies inside `folder` if that exists (its parent may be another disk or read-only), otherwise next to it.
    """
    folder = followed(folder)
    with _temporary_folder(folder if folder.is_dir() else folder.parent, folder) as temporary:
        yield temporary


def is_temporary(path: Path) -> bool:
    """Whether a path has a name that this module gives to unfinished files and folders."""
    return _NAME.fullmatch(path.name) is not None


def remove_temporaries(folder: Path) -> None:
    """Removes what interrupted writes left anywhere below a folder that only this command uses."""
    if folder.is_dir():
        for path in list(folder.rglob(f"{TEMPORARY}*")):
            if is_temporary(path):
                _remove(path)


def remove_temporaries_of(folder: Path) -> None:
    """Removes what killed commands left of one folder, next to it and inside it.

    Temporaries of a running process belong to another command and stay.
    """
    folder = followed(folder)
    for where in (folder.parent, folder):
        for path in list(where.glob(f"{TEMPORARY}*")):
            match = _NAME.fullmatch(path.name)
            if match and match["target"] == _target(folder) and not process_lives(int(match["process"])):
                _remove(path)


def process_lives(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
