"""The quality control page of preprocessing: order, numbers, links, and names that are no markup."""

import json
import re
from pathlib import Path

import pytest

from pipeline.report.quality_index import build_quality_index


@pytest.fixture
def preprocess(tmp_path: Path) -> Path:
    """Four cases: one suspect, two aligned with more and less overlap, one that was not aligned."""
    for name, overlap, suspect in (
        ("good", 0.98, []),
        ("poor", 0.90, []),
        ("odd", 0.97, ["the brain mask has 3000 ml"]),
        ("plain", None, []),
    ):
        folder = tmp_path / "heads" / name
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps([{"step": "skull_strip", "suspect": suspect}]))
        numbers = {"case": name, "suspect": suspect}
        (folder / "qc.json").write_text(
            json.dumps(numbers | ({} if overlap is None else {"template_overlap": overlap}))
        )
        (folder / "qc.png").write_bytes(b"")
    return tmp_path


def test_worst_cases_come_first_with_numbers_and_pictures(preprocess: Path) -> None:
    page = build_quality_index(preprocess, {"heads/broken": "broken.nii.gz: is truncated"}).read_text(encoding="utf-8")
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert re.findall(r"heads/\w+</(?:a|td)>", body) == [
        "heads/broken</td>",
        "heads/odd</a>",
        "heads/poor</a>",
        "heads/good</a>",
        "heads/plain</a>",
    ]
    assert "3 done, 1 suspect, 1 failed" in page
    assert "broken.nii.gz: is truncated" in body
    assert "skull_strip: the brain mask has 3000 ml" in body
    assert "<td>0.9</td>" in body
    assert all(f'src="heads/{name}/qc.png"' in page for name in ("good", "poor", "odd", "plain"))


def test_a_case_that_failed_now_is_not_shown_as_done_before(preprocess: Path) -> None:
    page = build_quality_index(preprocess, {"heads/good": "cannot be read"}).read_text(encoding="utf-8")
    assert "2 done, 1 suspect, 1 failed" in page
    assert 'src="heads/good/qc.png"' not in page


def test_names_are_escaped(preprocess: Path) -> None:
    page = build_quality_index(preprocess, {"heads/<script>": "<b>bad</b>"}).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>bad" not in page
