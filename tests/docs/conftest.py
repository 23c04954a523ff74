"""The documentation as tests see it: pages, their code, and the project around them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    def blocks(self, language: str) -> list[str]:
        """Bodies of the fenced blocks of a language."""
        return [m["body"] for m in _FENCE.finditer(self.text) if m["language"] == language]

    @property
    def python_files(self) -> dict[str, str]:
        """Files that a reader is to save: blocks that begin with `# NAME.py`, by name."""
        blocks = self.blocks("python")
        return {match[1]: block for block in blocks if (match := re.match(r"# (\w+\.py)\n", block))}

    @property
    def python(self) -> str:
        """Its other blocks of Python, one after the other, as a reader would type them."""
        return "\n".join(block for block in self.blocks("python") if block not in self.python_files.values())

    @property
    def commands(self) -> list[list[str]]:
        """Commands of its shell blocks as words, without variables set before them and the virtual environment."""
        lines = []
        for block in self.blocks("sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words:
                    lines.append([words[0].removeprefix(".venv/bin/"), *words[1:]])
        return lines

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def inline_code(self) -> list[str]:
        return re.findall(r"`([^`\n]+)`", self.prose)


def read_pages() -> list[Page]:
    paths = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    return [Page(path, path.read_text(encoding="utf-8")) for path in paths]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pages() -> dict[str, Page]:
    """Name relative to the project → page."""
    return {page.name: page for page in read_pages()}


@pytest.fixture(scope="session")
def notebooks() -> dict[str, dict[str, Any]]:
    """Name relative to the project → content."""
    paths = sorted((ROOT / "docs").rglob("*.ipynb"))
    return {path.relative_to(ROOT).as_posix(): json.loads(path.read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="session")
def reader_files(pages: dict[str, Page], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules that readers are to save."""
    folder = tmp_path_factory.mktemp("reader")
    for page in pages.values():
        for name, text in page.python_files.items():
            (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def make_targets() -> dict[str, str]:
    """Target of the Makefile → what `make help` says of it."""
    targets = {}
    for line in (ROOT / "Makefile").read_text().splitlines():
        if match := re.match(r"(?P<names>[a-z][a-z -]*):[^#]*##\s*(?P<text>.*)", line):
            targets |= dict.fromkeys(match["names"].split(), match["text"])
    return targets


@pytest.fixture(scope="session")
def make_variables() -> set[str]:
    return set(re.findall(r"^([A-Z_]+)\s*\?=", (ROOT / "Makefile").read_text(), re.M))
