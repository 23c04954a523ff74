"""Annotations that disagree most with what the other patients teach: to be looked at before more is annotated."""

from __future__ import annotations

import math
from typing import Any

from pipeline.arms.arm_record import PREDICTIONS
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.label_audit import CONFIDENT, FEWEST, LABEL_AUDIT, AuditRow, worst_of_each_case
from pipeline.prediction.reading import ReadingOptions
from pipeline.prediction.stored_prediction import prediction_name
from pipeline.report.case_scene import read_case
from pipeline.report.figure_style import PREDICTION, REFERENCE
from pipeline.report.number_text import number, percent
from pipeline.report.overlay_figure import PLANES, slice_figure
from pipeline.report.section import Material, Section
from pipeline.storage.cached_case import ARRAYS
from pipeline.storage.file_names import RESULTS

TITLE = "Annotations to look at"
_LISTED = 12


def label_audit_section(material: Material) -> Section:
    """Builds the section from `results/label_audit.csv` and the predictions that it names."""
    path = material.files.root / RESULTS / LABEL_AUDIT
    rows = read_rows(path, AuditRow) if path.is_file() else []
    if not rows:
        text = f"results/{LABEL_AUDIT} is missing or empty: the evaluate stage writes it."
        return Section("label_audit", TITLE, missing=(text,))
    drawn = [_drawn(material, row) for row in worst_of_each_case(rows)[: material.options.audited_cases]]
    content = {
        "arm": rows[0].arm,
        "n": rows[0].n,
        "annotations": len(rows),
        "labels": len({row.label for row in rows}),
        "standing_out": sum(row.stands_out == 1 for row in rows),
        "too_few": FEWEST if any(math.isnan(row.stands_out) for row in rows) else None,
        "sure": percent(CONFIDENT),
        "lines": [_line(material, row) for row in rows[:_LISTED]],
        "more": max(len(rows) - _LISTED, 0),
        "cases": [case for case in drawn if not isinstance(case, str)],
        "partly_annotated": any(case["ignored"] for case in drawn if not isinstance(case, str)),
        "reference_colour": REFERENCE,
        "prediction_colour": PREDICTION,
        "radiological": material.options.radiological,
        "table": f"results/{LABEL_AUDIT}",
    }
    return Section("label_audit", TITLE, content, tuple(case for case in drawn if isinstance(case, str)))


def _line(material: Material, row: AuditRow) -> dict[str, Any]:
    return {
        "case": row.case,
        "patient": row.patient,
        "label": row.label,
        "page": material.readings.pages.get(row.case),
        "surprise": number(row.surprise, 2),
        "stands_out": row.stands_out == 1,
        "dice": number(row.dice),
        "expected": number(row.expected_dice),
        "left_out": number(row.left_out_ml, 2),
        "extra": number(row.extra_ml, 2),
    }


def _drawn(material: Material, row: AuditRow) -> dict[str, Any] | str:
    """Draws the slices of a case where annotation and prediction disagree most."""
    folder = material.files.preprocessed(row.case)
    path = material.files.root / PREDICTIONS / row.prediction / prediction_name(row.case)
    if folder is None or not path.is_file():
        return f"case {row.case} cannot be drawn: its preprocessed arrays or its out-of-fold prediction were deleted."
    name = folder.parent.name
    classes, ignored = material.files.class_values(name), material.files.ignored_values(name)
    read = read_case(folder / ARRAYS, path, classes, _reading(material, row), ignored)
    through = read.scene.disagreement()
    panels = []
    for plane in PLANES:
        figure = slice_figure(
            read.scene,
            plane,
            material.options.overlay_margin_mm,
            radiological=material.options.radiological,
            through=through,
        )
        alt = f"{plane} slice of case {row.case}, with contours of its annotation and of the out-of-fold prediction"
        panels.append((plane, material.pictures.add(f"audit-{row.case}-{plane}", figure, alt, colours=128)))
    return _line(material, row) | {"panels": panels, "ignored": bool(read.scene.ignored.any())}


def _reading(material: Material, row: AuditRow) -> ReadingOptions:
    """How the arm reads this prediction."""
    units = [unit.record for unit in material.files.units if (unit.arm, unit.n) == (row.arm, row.n)]
    readings = {key: reading for record in units for key, reading in record.readings_by_key().items()}
    return readings.get(row.prediction, ReadingOptions())
