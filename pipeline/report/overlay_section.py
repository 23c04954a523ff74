"""Best, median and worst test case: reference, prediction and uncertainty in three planes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from pipeline.evaluation.options import EvaluationSpace
from pipeline.evaluation.tables import CaseRow, StudyRows
from pipeline.report.case_scene import read_case
from pipeline.report.figure_style import PREDICTION, REFERENCE
from pipeline.report.number_text import number
from pipeline.report.overlay_figure import PLANES, slice_figure
from pipeline.report.section import Material, Section
from pipeline.report.study_files import InferredUnit
from pipeline.storage.cached_case import ARRAYS


def overlay_section(material: Material) -> Section:
    """Builds the section of overlays from `results/cases.csv`, `predict-test/…` and `preprocess/…`."""
    title, study = "Segmentations", material.files.study
    if study is None:
        return Section(
            "overlays", title, missing=("results/cases.csv is missing, so no cases can be ranked for overlays.",)
        )
    n = study.sizes[-1]
    missing: list[str] = []
    shown: list[dict[str, Any]] = []
    chosen: list[tuple[str, str]] = []
    for arm in arms_to_show(material, study, n, material.options.overlay_arms):
        unit = material.files.predicted_unit(arm, n)
        if unit is None:
            missing.append(f"infer/{arm}/n{n:02d} holds no predictions: the infer stage writes them.")
            continue
        rows = [r for r in study.rows if (r.arm, r.n, r.repeat) == (arm, n, unit.repeat)]
        # The later arms show the cases of the first one, so that pictures can be compared.
        chosen = chosen or best_median_worst(rows, set(unit.predictions()))
        cases = []
        for rank, case in chosen:
            overlay = _case(material, unit, rank, case, [r for r in rows if r.case == case])
            if isinstance(overlay, str):
                missing.append(overlay)
            else:
                cases.append(overlay)
        shown.append({"arm": arm, "n": n, "repeat": unit.repeat, "cases": cases})
    content: dict[str, Any] = {}
    if any(arm["cases"] for arm in shown):
        content = {"arms": shown, "reference_colour": REFERENCE, "prediction_colour": PREDICTION,
                   "radiological": material.options.radiological, "native": _measured_elsewhere(material)}  # fmt: skip
    return Section("overlays", title, content, tuple(dict.fromkeys(missing)))


def _measured_elsewhere(material: Material) -> bool:
    """Whether the table was measured on the scans' own grids; the pictures are drawn on the preprocessed one."""
    config = material.files.config
    return config is not None and config.evaluation.space is EvaluationSpace.NATIVE


def arms_to_show(material: Material, study: StudyRows, n: int, count: int) -> list[str]:
    """Returns the arms to show: the best by mean Dice, then the best rival, then the others by mean Dice."""
    means = study.table("dice", n).means()
    order = sorted(means, key=lambda arm: math.inf if math.isnan(means[arm]) else -means[arm])
    rival = next((c.rival for c in material.files.comparisons if c.n == n), None)
    if rival in order[1:]:
        order.remove(rival)
        order.insert(1, rival)
    return order[:count]


def ranked_cases(rows: list[CaseRow], available: Collection[str]) -> list[str]:
    """Orders the cases of one trained arm by Dice (mean over labels), the best first."""
    by_case: dict[str, list[CaseRow]] = {}
    for row in rows:
        if row.case in available and math.isfinite(row.dice):
            by_case.setdefault(row.case, []).append(row)
    return sorted(by_case, key=lambda case: (-mean_dice(by_case[case]), case))


def mean_dice(rows: Iterable[CaseRow]) -> float:
    """Mean Dice of rows where it is defined; NaN without."""
    values = [r.dice for r in rows if math.isfinite(r.dice)]
    return float(np.mean(values)) if values else math.nan


def best_median_worst(rows: list[CaseRow], available: Collection[str]) -> list[tuple[str, str]]:
    """Picks three cases of one trained arm by Dice; returns `(rank, case)`, fewer with few cases."""
    order = ranked_cases(rows, available)
    if not order:
        return []
    picks = {"best": 0, "median": (len(order) - 1) // 2, "worst": len(order) - 1}
    seen: dict[int, str] = {}
    for rank, place in picks.items():
        seen.setdefault(place, rank)
    return [(rank, order[place]) for place, rank in seen.items()]


def _case(material: Material, unit: InferredUnit, rank: str, case: str, rows: list[CaseRow]) -> dict[str, Any] | str:
    path = unit.predictions().get(case)
    folder = material.files.preprocessed(case)
    if path is None:
        return f"the prediction of case {case} by {unit.arm} at n = {unit.n} is missing."
    if folder is None:
        return f"the preprocessed arrays of case {case} are missing: the preprocess stage writes them."
    classes = material.files.class_values(folder.parent.name)
    read = read_case(folder / ARRAYS, path, classes, unit.record.choices.reading)
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
        "page": material.readings.pages.get(case),
        # A picture that does not show what the table measured must say so.
        "differs": number(read.overlap) if math.isfinite(table) and abs(read.overlap - table) > 0.05 else None,
    }  # fmt: skip
