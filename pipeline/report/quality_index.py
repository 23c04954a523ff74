"""The quality control page of preprocessing: all cases, worst first, with their numbers and pictures.

It lies beside the cases and links their pictures instead of holding them, so it stays small for any number of cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.natural_order import natural
from pipeline.report.number_text import plain
from pipeline.report.page import page_environment
from pipeline.report.quality_section import CaseQuality, case_quality
from pipeline.report.study_files import folders
from pipeline.storage.atomic import write_text
from pipeline.storage.file_names import FILES, INDEX, QUALITY_PICTURE, RECORD
from pipeline.storage.owned_folder import owned_files

_OVERLAP = "template_overlap"


def build_quality_index(preprocess: Path, failures: Mapping[str, str]) -> Path:
    """Writes `index.html` into the folder of the preprocessing stage.

    Args:
        preprocess: the folder, with `DATASET/CASE/` below it.
        failures: `DATASET/CASE` → why it could not be done.

    Returns:
        the page.

    Raises:
        WorkspaceError: somebody changed the page since it was written.
    """
    rows: list[dict[str, Any]] = [{"name": name, "state": "failed", "reasons": [why]} for name, why in failures.items()]
    cases = [
        case_quality(path)
        for dataset in folders(preprocess)
        for path in folders(dataset)
        if (path / RECORD).is_file() and f"{dataset.name}/{path.name}" not in failures
    ]
    rows += [_row(case, preprocess) for case in sorted(cases, key=_worst_first)]
    columns = list(dict.fromkeys(key for row in rows for key in row.get("numbers", {})))
    states = ("failed", "suspect", "done")
    page = (
        page_environment()
        .get_template("quality_index.html.j2")
        .render(rows=rows, columns=columns, counts={state: sum(r["state"] == state for r in rows) for state in states})
    )
    with owned_files(preprocess, FILES, of_before=(INDEX,)) as folder:
        write_text(folder / INDEX, page)
    return preprocess / INDEX


def _worst_first(case: CaseQuality) -> tuple[bool, float, list[Any]]:
    """Suspect cases, then those that overlap least with the template; cases that were not aligned by name."""
    return (not case.suspect, case.numbers.get(_OVERLAP, 1.0), [case.folder.parent.name, natural(case.folder.name)])


def _row(case: CaseQuality, preprocess: Path) -> dict[str, Any]:
    numbers = {key.replace("_", " "): plain(value) for key, value in case.numbers.items()}
    picture = case.folder / QUALITY_PICTURE
    return {
        "name": f"{case.folder.parent.name}/{case.folder.name}",
        "state": "suspect" if case.suspect else "done",
        "reasons": [f"{step}: {reason}" for step, reason in case.suspect],
        "numbers": numbers,
        "picture": picture.relative_to(preprocess).as_posix() if picture.is_file() else "",
    }
