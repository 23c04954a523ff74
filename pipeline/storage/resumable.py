"""The folder of a unit that can be resumed: it survives a killed process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage.atomic import remove_temporaries

_PARTIAL = ".partial-"


def partial_folder(folder: Path, digest: str) -> Path:
    """The folder of a unit's unfinished work: next to its final folder, named after its recipe."""
    return folder.parent / f"{_PARTIAL}{folder.name}-{digest[:16]}"


@contextmanager
def resumable_folder(folder: Path, digest: str) -> Iterator[Path]:
    """Yields the folder of unfinished work, with the files of an earlier attempt at the same recipe.

    On success its files are to be moved to `folder`. On failure it stays, so that the next attempt resumes there.

    Args:
        folder: where the finished work goes.
        digest: of the recipe; unfinished work on another recipe is deleted.
    """
    partial = partial_folder(folder, digest)
    for other in folder.parent.glob(f"{_PARTIAL}{folder.name}-*"):
        if other != partial:
            shutil.rmtree(other, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    remove_temporaries(partial)
    yield partial
    shutil.rmtree(partial, ignore_errors=True)
