"""What the workers of a killed command leave in shared memory, where else only a restart of the machine removes it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def remove_shared_memory(process: int) -> None:
    """Removes the semaphores and folders that the worker pool of a process has left.

    Args:
        process: of a Graft command of this machine that was killed.
    """
    for pattern in (f"sem.loky-{process}-*", f"joblib_memmapping_folder_{process}_*"):
        for path in SHARED_MEMORY.glob(pattern):
            with suppress(OSError):
                if path.stat().st_uid == os.getuid():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
