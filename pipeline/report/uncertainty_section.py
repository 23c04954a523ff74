"""Uncertainty against error: does an arm know which voxels it gets wrong?"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from pipeline.report.case_readings import PredictionQuality
from pipeline.report.figure_style import arm_styles
from pipeline.report.number_text import number, percent
from pipeline.report.section import Material, Section
from pipeline.report.uncertainty_figures import error_rates, errors_found
from pipeline.report.voxel_errors import VoxelErrors

SHARES = (0.01, 0.05)
"""Shares of the voxels, most uncertain first, that a reader might look through."""


def uncertainty_section(material: Material) -> Section:
    """Builds the section from the predictions that were read for the pages of the cases."""
    title, readings = "Uncertainty against error", material.readings
    if not readings.qualities:
        missing = ("No predictions of test cases could be read: the infer stage writes them.",)
        return Section("uncertainty", title, missing=missing)
    found = {arm: [q for q in readings.qualities if q.arm == arm] for arm in readings.arms}
    errors = {arm: reduce(add, (q.errors for q in of_arm)) for arm, of_arm in found.items() if of_arm}
    styles, pictures = arm_styles(material.files.arms()), material.pictures
    content = {
        "n": readings.n,
        "shares": [percent(share) for share in SHARES],
        "lines": [_line(arm, found[arm], of_arm) for arm, of_arm in errors.items()],
        "rates": pictures.add(
            "uncertainty-rates",
            error_rates({arm: e.rates() for arm, e in errors.items()}, styles),
            "Share of wrong voxels against their predictive entropy, by arm",
        ),
        "found": pictures.add(
            "uncertainty-found",
            errors_found({arm: e.found_curve(2 * SHARES[-1]) for arm, e in errors.items()}, styles),
            "Share of the wrong voxels among the most uncertain voxels, by arm",
        ),
    }
    return Section("uncertainty", title, content)


def _line(arm: str, found: list[PredictionQuality], errors: VoxelErrors) -> dict[str, Any]:
    share = errors.wrong.sum() / max(int(errors.voxels.sum()), 1)
    return {
        "arm": arm,
        "draws": max(q.draws for q in found),
        "cases": len(found),
        "wrong": percent(share, 2),
        "area": number(errors.area_under_curve()),
        "found": [number(errors.found_in_most_uncertain(share), 2) for share in SHARES],
    }
