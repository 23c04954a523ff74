"""Files from a user: only regular ones are opened, and every fault of text or JSON is reported in one sentence."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from data.errors import DataError, GraftError

LARGEST_TEXT = 200 * 2**20
"""Bytes of the largest text file that is read."""

DEEPEST = 50
"""Levels of nesting; a genuine file has a handful."""

_KINDS = {
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def require_regular_file(path: Path, expected: str, error: type[GraftError] = DataError, fix: str = "") -> int:
    """Refuses what is not a regular file (or a link to one), without opening it: reading a named pipe would never end.

    Returns:
        Its size in bytes.

    Raises:
        GraftError: it is missing, cannot be accessed, or is a folder, a pipe, a socket or a device.
    """
    try:
        found = path.stat()
    except FileNotFoundError as cause:
        gone = "is a link to a file that does not exist" if path.is_symlink() else "there is no such file"
        raise error(f"{path}: {gone}", expected=expected, fix=fix or "correct the path, or restore the file") from cause
    except OSError as cause:
        raise error(
            f"{path}: cannot be read ({cause.strerror})", expected=expected, fix=fix or "correct the path"
        ) from cause
    except ValueError as cause:
        raise error(f"{path}: is not a valid file name", expected=expected, fix=fix or "correct the path") from cause
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "is not a regular file")
        raise error(f"{path}: {kind}", expected=expected, fix=fix or "name the file itself, or rename what is there")
    return found.st_size


def is_there(path: Path) -> bool:
    """Whether anything has this name, even a broken link: what is unusable must not be skipped silently."""
    return os.path.lexists(path)


def read_text(
    path: Path, expected: str, error: type[GraftError] = DataError, largest: int = LARGEST_TEXT, fix: str = ""
) -> str:
    """Reads a text file in UTF-8, or in UTF-16 as spreadsheets write it.

    Raises:
        GraftError: it is not a regular file, too large, not readable or not text.
    """
    size = require_regular_file(path, expected, error, fix)
    if size > largest:
        raise error(
            f"{path}: has {size / 2**20:.0f} MiB",
            expected=f"{expected} of at most {largest / 2**20:.0f} MiB",
            fix=fix or "split it",
        )
    try:
        return decode(path.read_bytes())
    except UnicodeDecodeError as cause:
        raise error(
            f"{path}: cannot be read ({cause.reason})", expected=f"{expected} in UTF-8", fix=fix or "save it so"
        ) from cause
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror})", expected=expected, fix=fix or "allow it") from cause


def decode(content: bytes, errors: str = "strict") -> str:
    """Decodes UTF-8, or UTF-16 and UTF-32 with or without their mark; the mark is dropped.

    Raises:
        UnicodeDecodeError: with `errors="strict"`, it is none of these.
    """
    # JSON's rule holds for all text that begins with two ASCII characters: the zero bytes show the encoding.
    return content.decode(json.detect_encoding(content), errors)


def read_json(path: Path, error: type[GraftError] = DataError, fix: str = "") -> Any:
    """Reads a JSON file.

    Raises:
        GraftError: it cannot be read as text, is not JSON, or is nested too deeply.
    """
    text = read_text(path, "a JSON file", error, fix=fix)
    try:
        value = json.loads(text, object_pairs_hook=_each_key_once)
        too_deep = _deeper_than(value, DEEPEST)
    except RecursionError:
        too_deep = True
    except ValueError as cause:
        raise error(
            f"{path}: is not valid JSON ({cause})",
            expected="a JSON file in UTF-8",
            fix=fix or "correct the error at that position",
        ) from cause
    if too_deep:
        raise error(
            f"{path}: is nested more than {DEEPEST} levels deep",
            expected="a JSON file of a few levels",
            fix=fix or "correct it",
        )
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a repeated key, of which `json` would silently keep the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return value


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for node in layer
            if isinstance(node, list | dict)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not layer:
            return False
    return any(isinstance(node, list | dict) for node in layer)
