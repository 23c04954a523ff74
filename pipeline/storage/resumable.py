"""The folder of a unit that can go on in its middle: it outlives a killed process, and ends like any other unit's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.atomic import remove_temporaries

_PARTIAL = ".partial-"


def partial_folder(folder: Path, digest: str) -> Path:
    """Where the unfinished work of a unit lies: beside its folder, under a name that says which recipe it follows."""
    return folder.parent / f"{_PARTIAL}{folder.name}-{digest[:16]}"


@contextmanager
def resumable_folder(folder: Path, digest: str) -> Iterator[Path]:
    """Yields the folder of unfinished work, with what an earlier try left if its recipe was the same.

    On success its files are to be moved to `folder`. On failure it stays, so that the next try goes on there.

    Args:
        folder: where the finished work goes.
        digest: of the recipe; work on another recipe is thrown away.
    """
    partial = partial_folder(folder, digest)
    for other in folder.parent.glob(f"{_PARTIAL}{folder.name}-*"):
        if other != partial:
            shutil.rmtree(other, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    remove_temporaries(partial)
    yield partial
    shutil.rmtree(partial, ignore_errors=True)
