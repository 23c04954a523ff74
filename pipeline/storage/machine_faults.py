"""Clear messages for faults of the machine: full disks, missing permissions, killed workers."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from joblib.externals.loky.process_executor import TerminatedWorkerError
from safetensors import SafetensorError

from data.errors import GraftError, WorkspaceError
from pipeline.storage.atomic import is_temporary

_AGAIN = "run the same command again; what is finished is kept"
_FULL = ("the disk is full", "room for the results", f"free some and {_AGAIN}")
_RIGHTS = ("may not be read or written", "permission to do both", "change the permissions or name another place")
_FAULTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the quota of the disk is used up", "room for the results", f"free some and {_AGAIN}"),
    errno.EFBIG: ("a file grew beyond the largest allowed size", "room for the results", f"raise it and {_AGAIN}"),
    errno.EROFS: ("the disk is read-only", "one that can be written", "name a folder elsewhere"),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EIO: ("the disk does not respond as it should", "a sound disk or network", f"check it and {_AGAIN}"),
    errno.ESTALE: ("the network disk was remounted", "a disk that stays mounted", _AGAIN),
    errno.EMFILE: ("too many files are open", "fewer at a time", f"raise `ulimit -n` or use --jobs 1, and {_AGAIN}"),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "a shorter one", "rename it or name another folder"),
}
_RUST = re.compile(r"\(os error (\d+)\)")


def machine_fault(error: BaseException, place: Path | None = None) -> WorkspaceError | None:
    """Explains an error that comes from the machine and not from the user's data or a bug.

    Args:
        error: the error; its causes are considered too, because libraries wrap the system's errors.
        place: where the results go, for errors that name no file.

    Returns:
        The error to show; `None` for any other error.
    """
    reason: BaseException | None = None if isinstance(error, GraftError) else error
    while reason is not None:
        if isinstance(reason, TerminatedWorkerError):
            return WorkspaceError(
                "a worker process was killed",
                expected="workers that finish (did the machine run out of memory?)",
                fix=f"use fewer with --jobs 1, and {_AGAIN}",
            )
        if (number := _number(reason)) in _FAULTS:
            found, expected, fix = _FAULTS[number]
            named = getattr(reason, "filename", None)
            path = _shown(Path(os.fsdecode(named))) if isinstance(named, str | bytes) else place
            where = f"{path}: " if path is not None else ""
            return WorkspaceError(f"{where}{found} ({os.strerror(number)})", expected=expected, fix=fix)
        reason = reason.__cause__ or (None if reason.__suppress_context__ else reason.__context__)
    return None


def _shown(path: Path) -> Path:
    """The path, or the parent of a temporary file or folder, whose name means nothing to the user."""
    return next((whole.parent for whole in (path, *path.parents) if is_temporary(whole)), path)


def _number(error: BaseException) -> int:
    """The system's number of an error; 0 if it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    # The library is written in Rust and passes the system's error on as text.
    match = _RUST.search(str(error)) if isinstance(error, SafetensorError) else None
    return int(match[1]) if match else 0
