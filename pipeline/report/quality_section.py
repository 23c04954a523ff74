"""Preprocessing: what every step found suspect, and pictures of the cases, suspect ones first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.natural_order import natural
from data.stored_record import read_record, record_if_there
from pipeline.report.number_text import plain
from pipeline.report.picture import thumbnail
from pipeline.report.section import Material, Section
from pipeline.report.study_files import folders
from pipeline.storage.file_names import QUALITY, QUALITY_PICTURE, RECORD
from pipeline.storage.stage_names import Stage
from preprocessing.quality_control import QualityRecord
from preprocessing.step_record import ChainRecord

_SCAN = "scan"


@dataclass(frozen=True)
class CaseQuality:
    """What preprocessing recorded of one case.

    Attributes:
        folder: where it lies.
        steps: names of the steps, in order.
        suspect: (step, reason) pairs; the step of what the checks doubt is `scan`.
        numbers: those of `qc.json`.
    """

    folder: Path
    steps: tuple[str, ...]
    suspect: tuple[tuple[str, str], ...]
    numbers: dict[str, float]


def quality_section(material: Material) -> Section:
    """Builds the section of preprocessing from `preprocess/DATASET/CASE/`."""
    title = "Preprocessing"
    datasets, missing = [], []
    for folder in folders(material.files.root / Stage.PREPROCESS):
        cases = [case_quality(path) for path in folders(folder) if (path / RECORD).is_file()]
        if cases:
            datasets.append(_dataset(material, folder.name, cases))
        else:
            missing.append(f"preprocess/{folder.name} holds no records: the preprocess stage writes them.")
    if not datasets and not missing:
        missing.append("preprocess/ is missing: the preprocess stage writes it, so there is nothing to check by eye.")
    return Section("preprocessing", title, {"datasets": datasets} if datasets else {}, tuple(missing))


def case_quality(folder: Path) -> CaseQuality:
    """Reads record and numbers of one case."""
    steps = read_record(folder / RECORD, ChainRecord).steps
    written = record_if_there(folder / QUALITY, QualityRecord)
    suspect = [(_SCAN, doubt) for doubt in (written.doubts if written else ())]
    suspect += [(step.step, reason) for step in steps for reason in step.suspect]
    numbers = written.numbers() if written else {}
    return CaseQuality(folder, tuple(step.step for step in steps), tuple(suspect), numbers)


def _dataset(material: Material, name: str, cases: list[CaseQuality]) -> dict[str, Any]:
    by_step = Counter(step for case in cases for step in {step for step, _ in case.suspect})
    steps = list(dict.fromkeys(step for case in cases for step in case.steps))
    doubted = [{"name": _SCAN, "suspect": by_step[_SCAN], "cases": len(cases)}] if by_step[_SCAN] else []
    order = sorted(cases, key=lambda c: (not c.suspect, -len(c.suspect), natural(c.folder.name)))
    pictured = [c for c in order if (c.folder / QUALITY_PICTURE).is_file()][: material.options.quality_cases]
    return {
        "name": name,
        "cases": len(cases),
        "suspect": sum(bool(c.suspect) for c in cases),
        "steps": doubted
        + [{"name": s, "suspect": by_step[s], "cases": sum(s in c.steps for c in cases)} for s in steps],
        "pictures": [_pictured(material, case) for case in pictured],
        "unpictured": len(cases) - len(pictured),
        # A suspect case is named even if there is no room for its picture.
        "unpictured_suspects": [_named(c) for c in order if c.suspect and c not in pictured],
    }


def _named(case: CaseQuality) -> dict[str, Any]:
    return {"case": case.folder.name, "suspect": [{"step": step, "reason": reason} for step, reason in case.suspect]}


def _pictured(material: Material, case: CaseQuality) -> dict[str, Any]:
    alt = f"quality control picture of case {case.folder.name}"
    picture = thumbnail(case.folder / QUALITY_PICTURE, material.options.thumbnail_width, alt)
    numbers = [(k, plain(v)) for k, v in case.numbers.items()]
    address = f"../{Stage.PREPROCESS}/{quote(case.folder.parent.name)}/{quote(case.folder.name)}/{QUALITY_PICTURE}"
    return _named(case) | {"picture": picture, "numbers": numbers, "address": address}
