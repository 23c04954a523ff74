"""Removes what the workers of a killed command left in shared memory, which would stay until a restart."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def remove_shared_memory(process: int) -> None:
    """Removes the semaphores and folders left by the worker pool of a killed Graft command of this machine."""
    for pattern in (f"sem.loky-{process}-*", f"joblib_memmapping_folder_{process}_*"):
        for path in SHARED_MEMORY.glob(pattern):
            with suppress(OSError):
                if path.stat().st_uid == os.getuid():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
