"""Digests of configurations and files: what a unit's done-marker compares."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    """Returns the SHA-256 (hex) of an array's numbers, with their kind and shape."""
    whole = np.ascontiguousarray(array)
    found = hashlib.sha256(f"{whole.dtype.str} {whole.shape}".encode())
    found.update(whole.view(np.uint8).data)
    return found.hexdigest()


class FileDigests:
    """Digests of files, remembered by path, size and times so that a second run need not read them again.

    A path is remembered as its own digest, because names of people and places in it are nobody's business.

    Args:
        memory: a JSON file that keeps what was computed; it may be missing or damaged, then it starts empty.
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
        # Whoever copies with times, or restores them, leaves the time of modification as it was, never that of change.
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
        entry = self._known.get(key)
        if entry is None or entry[:-1] != stamp:
            entry = [*stamp, file_digest(path)]
            self._known[key] = entry
            self._changed = True
        return str(entry[-1])

    def of_files(self, paths: Iterable[Path]) -> list[tuple[str, str]]:
        """Returns name and digest of each file; one that is missing or cannot be read counts as such.

        So its return is noticed, and one bad file stops no batch: reading it says what is wrong.

        Pairs and no mapping, because files of one case share a name where folders tell image and label apart.
        """
        return [(path.name, self._or_fault(path)) for path in paths]

    def _or_fault(self, path: Path) -> str:
        try:
            return self(path) if path.is_file() else "missing"
        except OSError:
            return "unreadable"

    def save(self) -> None:
        """Writes what was learned, atomically."""
        from pipeline.storage.atomic import write_text

        if self._changed:
            write_text(self._memory, json.dumps(self._known, indent=0, sort_keys=True))
            self._changed = False
