"""Links between pages resolve, headings included, and no page is an orphan."""

from __future__ import annotations

import re

_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def _targets(page) -> list[str]:
    prose = re.sub(r"`[^`\n]*`", "", page.prose)
    return [t for t in (m["target"] for m in _LINK.finditer(prose)) if not re.match(r"[a-z]+:", t)]


def _anchors(text: str) -> set[str]:
    """Anchors as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    slugs = (re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings)
    return set(slugs)


def test_every_relative_link_resolves(pages):
    broken = []
    for page in pages.values():
        for target in _targets(page):
            path, _, anchor = target.partition("#")
            file = (page.path.parent / path).resolve() if path else page.path
            if not file.exists():
                broken.append(f"{page.name}: {target}")
            elif anchor and anchor not in _anchors(file.read_text(encoding="utf-8")):
                broken.append(f"{page.name}: {target} (no such heading)")
    assert not broken
    assert sum(len(_targets(page)) for page in pages.values()) > 30


def test_every_page_of_the_documentation_is_in_the_index(pages, root):
    index = pages["docs/index.md"]
    linked = {(index.path.parent / t.partition("#")[0]).resolve() for t in _targets(index)}
    listed = {p.path for p in pages.values() if p.name.startswith("docs/") and not p.name.startswith("docs/results/")}
    assert listed - linked == {root / "docs/index.md"}


def test_links_leave_no_machine_behind(pages):
    assert "docs/index.md" in pages
    for page in pages.values():
        assert not re.search(r"/work/|/home/|/root/|/tmp/", page.text), page.name
