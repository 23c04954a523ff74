"""A file that ends in zeros from a disk block on: the trace of an interrupted copy that had allocated all its space.

Compressed files in that state are refused when they are read. In an uncompressed file zeros are voxels, so this is a
hint: a stripped brain ends in zeros as well, but hardly ever at a block boundary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.checks.report import Presence
from data.image_file import image_parts

_BLOCK = 4096
_LEAST_SHARE = 0.1
# The last number before the boundary may end in zero bytes.
_LARGEST_NUMBER = 8
_CHUNK = 1 << 20


def zeros_from(path: Path) -> int:
    """Returns the number of bytes before the zeros at the end of a file; its size if it does not end in zeros."""
    with path.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        step = _BLOCK
        while end > 0:
            start = max(end - step, 0)
            stream.seek(start)
            filled = np.flatnonzero(np.frombuffer(stream.read(end - start), np.uint8))
            if len(filled):
                return start + int(filled[-1]) + 1
            end, step = start, _CHUNK
    return 0


def check_interrupted_copy(case: CaseObservation) -> Iterator[Finding]:
    """A file ends in zeros from a block boundary on."""
    for path, file in case.files.items():
        if file.presence is not Presence.PRESENT:
            continue
        for part in image_parts(path):
            size, last = part.stat().st_size, zeros_from(part)
            share = 1 - last / max(size, 1)
            if last > 0 and share >= _LEAST_SHARE and -last % _BLOCK < _LARGEST_NUMBER:
                found = (
                    f"{case.roles[path]}: the last {share:.0%} of {part.name} are zeros, from a block of the disk on"
                )
                fix = "copy it again if a copy was interrupted; no action is needed if these voxels are background"
                yield Finding(Level.WARNING, case.case.name, "interrupted_copy", found, fix)
