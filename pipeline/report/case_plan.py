"""Which test cases get a page, with which arms and measurements; reads their predictions once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.tables import CaseRow, StudyRows
from pipeline.report.case_confidence import case_confidence
from pipeline.report.case_pages import FOLDER, ArmPrediction, CaseTask, build_case_pages, page_name
from pipeline.report.case_readings import CaseReadings
from pipeline.report.number_text import number
from pipeline.report.section import Material
from pipeline.report.shown_arms import ShownArm, best_median_worst, mean_dice, shown_arms
from pipeline.storage.cached_case import ARRAYS


def read_cases(material: Material, folder: Path, jobs: int) -> CaseReadings:
    """Writes the pages of the test cases and gathers what their predictions know of their errors.

    Args:
        material: of the report.
        folder: `report/`.
        jobs: cases at a time.

    Returns:
        Pages and records; empty where there is no table of cases or no prediction.

    Raises:
        WorkspaceError: a file is damaged.
    """
    files, study, options = material.files, material.files.study, material.options
    if study is None:
        return CaseReadings()
    arms, missing = shown_arms(files, study, options.case_arms)
    if not arms:
        return CaseReadings(missing=tuple(missing))
    lead, n = arms[0], study.sizes[-1]
    ranked = lead.ranked_cases()
    arrays = {case: found / ARRAYS for case in ranked if (found := files.preprocessed(case))}
    missing += [f"the preprocessed arrays of case {case} are missing." for case in ranked if case not in arrays]
    order = list(arrays)
    paged = paged_cases(order, options.case_pages)
    confidence = {arm.name: case_confidence(files, arm.name, n, arm.unit.repeat) for arm in arms}
    about = {"study": files.title, "arm": lead.name, "n": n, "cases": len(order)}
    tasks = [
        CaseTask(
            case=case,
            arrays=arrays[case],
            class_values=files.class_values(arrays[case].parent.parent.name),
            ignored=files.ignored_values(arrays[case].parent.parent.name),
            predictions=tuple(_prediction(arm, case, confidence[arm.name]) for arm in arms if case in arm.predictions),
            page=folder / FOLDER / f"{case}.html" if case in paged else None,
            facts=about | {"rank": rank, "patient": lead.rows_of(case)[0].patient},
            table=measurements(study, case, files.arms()),
            neighbours=_neighbours(case, paged),
        )
        for rank, case in enumerate(order, start=1)
    ]
    qualities = build_case_pages(tasks, options, jobs)
    pages = {case: page_name(case) for case in paged}
    return CaseReadings(tuple(arm.name for arm in arms), n, tuple(order), pages, tuple(qualities), tuple(missing))


def paged_cases(order: Sequence[str], most: int) -> list[str]:
    """Picks the cases that get a page: the best, the median, the worst, and then from the worst one up.

    Args:
        order: cases, the best first; the pages are in this order.
        most: how many pages there may be.
    """
    wanted = [*(case for _, case in best_median_worst(order)), *reversed(order)]
    return sorted(list(dict.fromkeys(wanted))[:most], key=order.index)


def _prediction(arm: ShownArm, case: str, confidence: Mapping[str, str]) -> ArmPrediction:
    kept, dice = arm.predictions[case], mean_dice(arm.rows_of(case))
    return ArmPrediction(arm.name, kept.path, kept.reading, dice, confidence.get(case, ""))


def _neighbours(case: str, paged: Sequence[str]) -> tuple[str | None, str | None]:
    if case not in paged:
        return None, None
    place = paged.index(case)
    return paged[place - 1] if place else None, paged[place + 1] if place + 1 < len(paged) else None


def measurements(study: StudyRows, case: str, arms: Sequence[str]) -> dict[str, Any]:
    """Arranges Dice and HD95 of one case as arm × size, means over repeats and labels."""
    rows = [row for row in study.rows if row.case == case]
    table = {
        arm: [_measured([row for row in rows if (row.arm, row.n) == (arm, n)]) for n in study.sizes] for arm in arms
    }
    lines = [{"arm": arm, "cells": cells} for arm, cells in table.items() if any(cells)]
    distances = any(cell and cell["hd95"] for cells in table.values() for cell in cells)
    return {"sizes": list(study.sizes), "lines": lines, "labels": len(study.labels), "hd95": distances}


def _measured(rows: Sequence[CaseRow]) -> dict[str, str | None] | None:
    if not rows:
        return None
    distances = [row.hd95 for row in rows if math.isfinite(row.hd95)]
    hd95 = number(float(np.mean(distances)), 1) if distances else None
    return {"dice": number(mean_dice(rows)), "hd95": hd95}
