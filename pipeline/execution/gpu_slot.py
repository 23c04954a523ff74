"""One GPU for each worker: several workers share one if their command says so.

A worker holds the lock of its place at a GPU as long as it lives. The system releases the lock however it ends, so the
worker that replaces a killed one finds the place free.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_held: list[IO[str]] = []


@dataclass(frozen=True)
class GpuSlots:
    """The places at the GPUs of a machine.

    Attributes:
        folder: of the locks, on a disk of the machine.
        gpus: as `CUDA_VISIBLE_DEVICES` names them.
        share: workers that share one.
    """

    folder: Path
    gpus: Sequence[str]
    share: int = 1

    def take(self) -> str | None:
        """Takes a place for this process, before torch looks for GPUs, and hides the other GPUs from it.

        Returns:
            The GPU; None if all places are taken, and this process then sees all GPUs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Every GPU gets its first worker before any gets its second.
        for place in range(self.share):
            for number, gpu in enumerate(self.gpus):
                stream = (self.folder / f"gpu-{number}-{place}").open("a")
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    stream.close()
                    continue
                _held.append(stream)
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                return gpu
        return None
