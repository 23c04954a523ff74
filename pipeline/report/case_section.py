"""All test cases, the worst first, with links to their pages."""

from __future__ import annotations

from typing import Any

from pipeline.report.number_text import number
from pipeline.report.section import Material, Section


def case_section(material: Material) -> Section:
    """Builds the section of cases from what was read for their pages."""
    title, readings = "Cases", material.readings
    if not readings.order:
        missing = readings.missing or ("results/cases.csv is missing, so there are no pages of cases.",)
        return Section("cases", title, missing=missing)
    at = {(q.case, q.arm): q for q in readings.qualities}
    lines: list[dict[str, Any]] = []
    for case in reversed(readings.order):
        found = [at.get((case, arm)) for arm in readings.arms]
        cells = [(number(q.dice), q.confidence) if q else ("–", "") for q in found]
        lines.append({"case": case, "page": readings.pages.get(case), "cells": cells})
    expected = any(q.confidence for q in readings.qualities)
    content = {
        "expected": expected,
        "arms": readings.arms,
        "n": readings.n,
        "lines": lines,
        "pages": len(readings.pages),
    }
    return Section("cases", title, content, readings.missing)
