"""Best, median and worst test case: reference, prediction and uncertainty in three planes."""

from __future__ import annotations

import math
from typing import Any

from pipeline.evaluation.options import EvaluationSpace
from pipeline.report.case_scene import read_case
from pipeline.report.figure_style import PREDICTION, REFERENCE
from pipeline.report.number_text import number
from pipeline.report.overlay_figure import PLANES, slice_figure
from pipeline.report.section import Material, Section
from pipeline.report.shown_arms import ShownArm, best_median_worst, mean_dice, shown_arms
from pipeline.storage.cached_case import ARRAYS


def overlay_section(material: Material) -> Section:
    """Builds the section of overlays from `results/cases.csv`, `predict-test/…` and `preprocess/…`."""
    title, study = "Segmentations", material.files.study
    if study is None:
        return Section(
            "overlays", title, missing=("results/cases.csv is missing, so no cases can be ranked for overlays.",)
        )
    arms, missing = shown_arms(material.files, study, material.options.overlay_arms)
    # The later arms show the cases of the first one, so that pictures can be compared.
    chosen = best_median_worst(arms[0].ranked_cases()) if arms else []
    shown: list[dict[str, Any]] = []
    for arm in arms:
        found = [_case(material, arm, rank, case) for rank, case in chosen]
        missing += [overlay for overlay in found if isinstance(overlay, str)]
        cases = [overlay for overlay in found if not isinstance(overlay, str)]
        shown.append({"arm": arm.name, "n": arm.unit.n, "repeat": arm.unit.repeat, "cases": cases})
    content: dict[str, Any] = {}
    if any(arm["cases"] for arm in shown):
        partly = any(case["ignored"] for arm in shown for case in arm["cases"])
        content = {"arms": shown, "partly_annotated": partly,
                   "reference_colour": REFERENCE, "prediction_colour": PREDICTION,
                   "radiological": material.options.radiological, "native": _measured_elsewhere(material)}  # fmt: skip
    return Section("overlays", title, content, tuple(dict.fromkeys(missing)))


def _measured_elsewhere(material: Material) -> bool:
    """Whether the table was measured on the scans' own grids; the pictures are drawn on the preprocessed one."""
    config = material.files.config
    return config is not None and config.evaluation.space is EvaluationSpace.NATIVE


def _case(material: Material, arm: ShownArm, rank: str, case: str) -> dict[str, Any] | str:
    unit, kept, rows = arm.unit, arm.predictions.get(case), arm.rows_of(case)
    folder = material.files.preprocessed(case)
    if kept is None:
        return f"the prediction of case {case} by {unit.arm} at n = {unit.n} is missing."
    if folder is None:
        return f"the preprocessed arrays of case {case} are missing: the preprocess stage writes them."
    classes = material.files.class_values(folder.parent.name)
    ignored = material.files.ignored_values(folder.parent.name)
    read = read_case(folder / ARRAYS, kept.path, classes, kept.reading, ignored)
    about = f"case {case}, {unit.arm}, n = {unit.n}"
    panels = []
    for kind in ("image", "entropy"):
        for plane in PLANES:
            figure = slice_figure(
                read.scene,
                plane,
                material.options.overlay_margin_mm,
                entropy=kind == "entropy",
                radiological=material.options.radiological,
            )
            of = "slice" if kind == "image" else "map of predictive entropy"
            alt = f"{plane} {of} of {about}, with contours of reference and prediction"
            name = f"overlay-{unit.arm}-{rank}-{plane}" + ("" if kind == "image" else "-entropy")
            panels.append((plane if kind == "image" else f"{plane}, uncertainty",
                           material.pictures.add(name, figure, alt, colours=128)))  # fmt: skip
    table = mean_dice(rows)
    return {
        "rank": rank, "case": case, "channel": read.channel, "panels": panels, "dice": number(table),
        "patient": rows[0].patient if rows else "",
        "ignored": bool(read.scene.ignored.any()),
        "page": material.readings.pages.get(case),
        # A picture that does not show what the table measured must say so.
        "differs": number(read.overlap) if math.isfinite(table) and abs(read.overlap - table) > 0.05 else None,
    }  # fmt: skip
