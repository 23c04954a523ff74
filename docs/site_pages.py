"""What the site adds to `docs/`: pages of the packages, and plain text where a link leaves the folder."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

PACKAGES = ("data", "preprocessing", "models", "pipeline")
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds one page for each package."""
    for package in PACKAGES:
        about = f"# `{package}`\n\nMade from the docstrings; internal, for those who change Graft.\n\n::: {package}\n"
        files.append(File.generated(config, f"packages/{package}.md", content=about))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Keeps only the words of a link that leaves `docs/`: those files are in the clone, not on the site."""
    folder = PurePosixPath(page.file.src_uri).parent
    depth = len(folder.parts)

    def outside(match: re.Match[str]) -> str:
        ups = len(Path(match["target"]).parts) - len([p for p in Path(match["target"]).parts if p != ".."])
        return match["text"] if ups > depth else match[0]

    return _LINK.sub(outside, markdown)
