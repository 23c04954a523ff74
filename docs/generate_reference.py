"""Writes cli.md, config.md and python.md of docs/reference from the code.

Usage, in the project's environment: `python docs/generate_reference.py` writes them; with `--check` it writes nothing
and ends with 1 if a file is not up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from cli_reference import cli_page
from config_reference import config_page
from python_reference import python_page

REFERENCE = Path(__file__).parent / "reference"

_NOTE = "<!-- Made by docs/generate_reference.py from the code. Change the code, not this file. -->"

PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "config.md": config_page, "python.md": python_page}


def main(arguments: list[str] | None = None) -> int:
    """Writes the pages, or under `--check` compares them.

    Returns:
        0; 1 if a page is not up to date under `--check`.
    """
    parser = argparse.ArgumentParser(description="Write cli.md, config.md and python.md of docs/reference.")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a page is not up to date")
    check = parser.parse_args(arguments).check
    stale = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, f"{_NOTE}\n\n{page()}"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    if stale and check:
        print(f"not up to date: {', '.join(stale)}; run python docs/generate_reference.py", file=sys.stderr)
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main())
