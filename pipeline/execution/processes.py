"""The processes that train one network together (`accelerate launch`), and the cores and threads of this one."""

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


def threads_of_share(units: int) -> int:
    """Threads of each of so many units that run at a time: its share of the cores, within `OMP_NUM_THREADS`.

    On a core that others use too, every small operation of a second thread waits for the scheduler, and takes tens of
    milliseconds instead of a tenth of one: whoever shares a machine sets that variable, and it must count.
    """
    share = max(available_cores() // units, 1)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(given)) if given.isdecimal() and int(given) > 0 else share
