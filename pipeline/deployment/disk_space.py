"""A full disk, told as what it is."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import WorkspaceError

_FULL = {errno.ENOSPC, errno.EDQUOT}


def is_full(error: OSError) -> bool:
    """Whether the system's error is that of a full disk or a used-up quota."""
    return error.errno in _FULL


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turns the system's error for a full disk, or a used-up quota, into one that says what to do.

    Raises:
        WorkspaceError: the disk that holds the folder is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise WorkspaceError(
            f"{folder}: the disk is full ({error.strerror})",
            expected="room for the results",
            fix="free some and run the same command again; what is finished is kept",
        ) from error
