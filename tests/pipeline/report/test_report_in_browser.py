from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.report_options import ReportOptions
from pipeline.report.build import build_report
from pipeline.report.figure_style import PREDICTION, REFERENCE

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to open the report with"),
]

SWITCHES = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
    "--enable-logging=stderr",
]  # fmt: skip

# Appended to a copy of the page, whose own policy would refuse it.
PROBE = """<script>
const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length;
parent.document.documentElement.dataset.probe =
  [document.images.length, broken, document.documentElement.scrollWidth, innerWidth].join(" ");
</script>"""


def browse(page: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    folder.mkdir()
    command = [BROWSER, *SWITCHES, f"--user-data-dir={folder}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def found_by_probe(page: Path, folder: Path, width: int) -> tuple[int, int, int, int]:
    """Pictures, broken ones, width that the page needs and width that it has; in a frame, which may be narrow."""
    folder.mkdir()
    copy = folder / page.name
    bare = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text())
    copy.write_text(bare.replace("</body>", PROBE + "</body>"))
    frame = folder / "frame.html"
    frame.write_text(f'<iframe src="{copy.name}" width="{width}" height="900"></iframe>')
    result = browse(frame, folder / "profile", "--allow-file-access-from-files", "--dump-dom")
    found = re.search(r'data-probe="(\d+) (\d+) (\d+) (\d+)"', result.stdout)
    assert found is not None
    pictures, broken, needed, available = map(int, found.groups())
    return pictures, broken, needed, available


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, workspace_builder: Callable[..., Path]) -> Path:
    root = workspace_builder(tmp_path_factory.mktemp("browser"), patients=3, repeats=1)
    return build_report(root, ReportOptions(overlay_arms=1, vector_figures=False))


@pytest.mark.parametrize("width", [1280, 400])
def test_opens_without_errors_broken_pictures_or_sideways_scrolling(page: Path, tmp_path: Path, width: int) -> None:
    pictures, broken, needed, available = found_by_probe(page, tmp_path / "probe", width)
    assert pictures > 20
    assert broken == 0
    assert available == width
    assert needed <= width


@pytest.mark.parametrize("width", [1280, 400])
def test_pages_of_cases_fit_and_hold_whole_pictures(page: Path, tmp_path: Path, width: int) -> None:
    case = page.parent / "cases/case-01.html"
    pictures, broken, needed, available = found_by_probe(case, tmp_path / "probe", width)
    assert (pictures, broken) == (1, 0)
    assert available == width
    assert needed <= width


def test_its_own_policy_refuses_nothing_that_it_holds(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    result = browse(page, tmp_path / "look", "--window-size=1280,2000", f"--screenshot={picture}")
    assert "CONSOLE" not in result.stderr
    with Image.open(picture) as image:
        assert image.size == (1280, 2000)
        # The dark head, the white page and the figures: a blank or error page has none of them.
        assert image.convert("RGB").getpixel((5, 5)) == (20, 50, 74)
        assert len(image.convert("RGB").getcolors(2_000_000) or ()) > 100


def test_the_viewer_starts_under_its_own_policy_and_draws_slices_and_contours(page: Path, tmp_path: Path) -> None:
    case, picture = page.parent / "cases/case-01.html", tmp_path / "case.png"
    dumped = browse(case, tmp_path / "dump", "--dump-dom")
    assert 'data-viewer="ready"' in dumped.stdout
    assert re.search(r'id="is-reference">core<', dumped.stdout)
    assert re.search(r'id="axial-number"[^>]*>\d+ / \d+<', dumped.stdout)
    result = browse(case, tmp_path / "look", "--window-size=1280,1000", f"--screenshot={picture}")
    assert "CONSOLE" not in result.stderr
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in (REFERENCE, PREDICTION):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        near = np.abs(pixels[250:650] - rgb).max(axis=-1) < 20
        # In each of the three slices.
        assert all(part.sum() > 20 for part in np.array_split(near, 3, axis=1)), colour


def test_a_script_that_is_not_the_viewer_does_not_run(page: Path, tmp_path: Path) -> None:
    text = (page.parent / "cases/case-01.html").read_text()
    copy = tmp_path / "copy.html"
    copy.write_text(text.replace("</body>", "<script>document.title = 'taken over'</script></body>"))
    result = browse(copy, tmp_path / "look", "--dump-dom")
    assert "<title>taken over" not in result.stdout
    assert "Content Security Policy" in result.stderr


def test_the_radiological_switch_mirrors_the_slices_and_says_so(page: Path, tmp_path: Path) -> None:
    case = page.parent / "cases/case-01.html"
    built, shown = case.read_text(), []
    switched = built.replace('id="radiological"', 'id="radiological" checked')
    for name, text in (("as-built", built), ("switched", switched)):
        copy = tmp_path / f"{name}.html"
        copy.write_text(text)
        dumped = browse(copy, tmp_path / name, "--dump-dom").stdout
        sides = re.findall(r'class="side (?:left|right)"[^>]*>(.)<', dumped)
        convention = re.search(r'id="convention">(\w+)', dumped)
        assert convention is not None
        shown.append((convention[1], "".join(sides), dumped.count('class="mirrored"')))
    assert shown == [("Neurological", "PALRLR", 0), ("Radiological", "PARLRL", 2)]
