"""Files of lines of JSON that grow while others read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append_line(path: Path, value: Any) -> None:
    """Appends a line, in one write; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(json.dumps(value) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the whole lines of a file that may be growing, damaged or missing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.split("\n")[:-1]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
