"""The site is built without a warning: links and anchors resolve, every page is in the navigation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
pytestmark = pytest.mark.slow


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_the_site_is_built_and_nothing_is_fetched_to_read_it(root: Path, tmp_path: Path) -> None:
    built = build(root, tmp_path / "site")
    assert built.returncode == 0, built.stderr[-3000:]
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "reference/config.html"} <= set(pages)
    assert "data.volume.Volume" in pages["packages/data.html"].read_text(encoding="utf-8")
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)", page.read_text(encoding="utf-8"))
        assert not loaded, f"{name}: {loaded}"


def test_a_broken_link_and_a_page_that_is_nowhere_stop_the_build(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "docs", tmp_path / "docs")
    # The pages of the packages take long and are not what is tried here.
    settings = re.sub(r"(?ms)^      - Packages:.*?(?=^  - )", "", (root / "mkdocs.yml").read_text())
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"(?m)^hooks:.*\n", "", settings))
    (tmp_path / "docs" / "lost.md").write_text("[nowhere](no-such-page.md)")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert "no-such-page.md" in built.stderr
    assert "lost.md" in built.stderr
