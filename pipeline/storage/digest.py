"""Digests of configurations and files, which done-markers compare."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.storage.atomic import write_text


def canonical_json(value: Any) -> str:
    """Serialises a JSON-able value so that equal values give equal text (sorted keys, no spaces)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Returns the SHA-256 (hex) of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def array_digest(array: NDArray[Any]) -> str:
    """Returns the SHA-256 (hex) of an array's values, type and shape."""
    whole = np.ascontiguousarray(array)
    found = hashlib.sha256(f"{whole.dtype.str} {whole.shape}".encode())
    found.update(whole.view(np.uint8).data)
    return found.hexdigest()


class FileDigests:
    """Digests of files, cached by path, size and times so that a second run need not read them again.

    A path is stored as its own digest, because it may contain names of people and places.

    Args:
        memory: the JSON file of the cache; if missing or damaged, the cache starts empty.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        try:
            known = json.loads(memory.read_text())
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, list[Any]] = known if isinstance(known, dict) else {}
        self._changed = False

    def __call__(self, path: Path) -> str:
        """Returns the SHA-256 (hex) of the file's content."""
        stat = path.stat()
        # Copying with times, or restoring them, keeps the time of modification but never that of change.
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        entry = self._known.get(key)
        if entry is None or entry[:-1] != stamp:
            entry = [*stamp, file_digest(path)]
            self._known[key] = entry
            self._changed = True
        return str(entry[-1])

    def of_files(self, paths: Iterable[Path]) -> list[tuple[str, str]]:
        """Returns name and digest of each file, or that it is missing or unreadable.

        So a bad file does not stop a batch (reading it reports the fault), and a repaired one is noticed. Pairs instead
        of a mapping, because image and label of a case have the same name where they lie in different folders.
        """

        def state(path: Path) -> str:
            try:
                return self(path) if path.is_file() else "missing"
            except OSError:
                return "unreadable"

        return [(path.name, state(path)) for path in paths]

    def save(self) -> None:
        """Writes the cache, atomically, if it has changed."""
        if self._changed:
            write_text(self._memory, json.dumps(self._known, indent=0, sort_keys=True))
            self._changed = False
