"""The memory available to a training on this machine, in its container or on the GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def available_memory(device: str, root: Path = _ROOT) -> int:
    """Returns the free memory of a device in bytes; on a CPU within the control groups (v1 and v2) of this process.

    Args:
        device: `cpu`, or a CUDA device.
        root: folder that contains `proc` and `sys`.
    """
    import torch

    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return min([_free_in_machine(root), *_free_in_groups(root)])


def _free_in_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Other systems than Linux do not report free memory, so all of it is taken.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_groups(root: Path) -> Iterator[int]:
    """Yields the free memory of each control group above this process that has a limit."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage, reclaimable = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base = "sys/fs/cgroup/memory"
            limit, usage, reclaimable = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = root / base
        # A limit applies to all groups below it. Inside a container, often only the root of the path exists.
        for part in ("", *Path(path).parts[1:]):
            group = group / part
            free = _free_in_group(group, limit, usage, reclaimable)
            if free is not None:
                yield free


def _free_in_group(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        allowed, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        if allowed == "max":
            return None
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # The file cache counts as used, but the kernel frees it first.
    return max(int(allowed) - used + int(statistics.get(reclaimable, 0)), 0)
