from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.report.build import build_report
from pipeline.report.options import ReportOptions

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed to open the report with")

SWITCHES = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
    "--enable-logging=stderr",
]  # fmt: skip

# Appended to a copy of the page: the page itself has no script, and its policy would refuse one.
PROBE = """<script>
const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length;
document.documentElement.dataset.probe =
  [document.images.length, broken, document.documentElement.scrollWidth, innerWidth].join(" ");
</script>"""


def browse(page: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    folder.mkdir()
    command = [BROWSER, *SWITCHES, f"--user-data-dir={folder}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, workspace_builder: Callable[..., Path]) -> Path:
    root = workspace_builder(tmp_path_factory.mktemp("browser"), patients=3, repeats=1)
    return build_report(root, ReportOptions(resamples=100))


@pytest.mark.parametrize("width", [1280, 400])
def test_opens_without_errors_broken_pictures_or_sideways_scrolling(page: Path, tmp_path: Path, width: int) -> None:
    text = page.read_text()
    copy = tmp_path / "copy.html"
    bare = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    copy.write_text(bare.replace("</body>", PROBE + "</body>"))
    result = browse(copy, tmp_path / "probe", f"--window-size={width},900", "--dump-dom")
    found = re.search(r'data-probe="(\d+) (\d+) (\d+) (\d+)"', result.stdout)
    assert found is not None
    pictures, broken, needed, available = map(int, found.groups())
    assert pictures > 20
    assert broken == 0
    assert needed <= available


def test_its_own_policy_refuses_nothing_that_it_holds(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    result = browse(page, tmp_path / "look", "--window-size=1280,2000", f"--screenshot={picture}")
    assert "CONSOLE" not in result.stderr
    with Image.open(picture) as image:
        assert image.size == (1280, 2000)
        # The dark head, the white page and the figures: a blank or error page has none of them.
        assert image.convert("RGB").getpixel((5, 5)) == (20, 50, 74)
        assert len(image.convert("RGB").getcolors(2_000_000) or ()) > 100
