"""Images beside those of the cases that no case uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data.case import Case
from data.checks.finding import Finding, Level
from data.image_file import image_suffix

_SHOWN = 3


def unused_files(root: Path, cases: Sequence[Case], level: Level, fix: str) -> list[Finding]:
    """Names the images that no case uses, in the folders of the cases' files; hidden files are ignored."""
    used = {Path(os.path.abspath(path)) for case in cases for path in case.files()}
    unused = [
        os.path.relpath(file, root)
        for folder in sorted({path.parent for path in used})
        if folder.is_dir()
        for file in sorted(folder.iterdir())
        if image_suffix(file) and not file.name.startswith(".") and file not in used
    ]
    if not unused:
        return []
    shown = ", ".join(unused[:_SHOWN]) + (f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else "")
    return [Finding(level, None, "unused_files", f"no case uses {shown}", fix)]
