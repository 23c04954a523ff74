"""The processes that train one network together, as started by `accelerate launch`, and the available cores."""

from __future__ import annotations

import os


def world_size() -> int:
    """Number of processes that train together; 1 for an ordinary command."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them; process 0 writes the files."""
    return int(os.environ.get("RANK", "0"))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
