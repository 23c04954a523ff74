"""Which test cases get a page, with which arms and measurements; reads their predictions once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.tables import CaseRow, StudyRows
from pipeline.report.case_confidence import case_confidence
from pipeline.report.case_pages import (
    FOLDER,
    ArmPrediction,
    CaseTask,
    build_case_pages,
    page_name,
)
from pipeline.report.case_readings import CaseReadings
from pipeline.report.number_text import number
from pipeline.report.overlay_section import arms_to_show, best_median_worst, mean_dice, ranked_cases
from pipeline.report.section import Material
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
    study = material.files.study
    return CaseReadings() if study is None else _read(material, study, folder, jobs)


def _read(material: Material, study: StudyRows, folder: Path, jobs: int) -> CaseReadings:
    n, missing = study.sizes[-1], []
    units = {}
    for arm in arms_to_show(material, study, n, material.options.case_arms):
        unit = material.files.predicted_unit(arm, n)
        if unit is None:
            missing.append(f"infer/{arm}/n{n:02d} holds no predictions: the infer stage writes them.")
        else:
            units[arm] = unit
    if not units:
        return CaseReadings(missing=tuple(missing))
    predictions = {arm: unit.predictions() for arm, unit in units.items()}
    rows = {
        arm: [r for r in study.rows if (r.arm, r.n, r.repeat) == (arm, n, unit.repeat)] for arm, unit in units.items()
    }
    confidence = {arm: case_confidence(material.files, arm, n, unit.repeat) for arm, unit in units.items()}
    lead = next(iter(units))
    order = ranked_cases(rows[lead], predictions[lead])
    arrays = {case: f / ARRAYS for case in order if (f := material.files.preprocessed(case))}
    missing += [f"the preprocessed arrays of case {case} are missing." for case in order if case not in arrays]
    order = [case for case in order if case in arrays]
    first = [case for _, case in best_median_worst(rows[lead], set(order))]
    paged = sorted(set([*first, *reversed(order)][: material.options.case_pages]), key=order.index)
    by_case: dict[str, list[CaseRow]] = {}
    for row in study.rows:
        by_case.setdefault(row.case, []).append(row)
    study_facts = {"study": material.files.title, "arm": lead, "n": n, "cases": len(order)}
    tasks = [
        CaseTask(
            case=case,
            arrays=arrays[case],
            class_values=material.files.class_values(arrays[case].parent.parent.name),
            predictions=tuple(
                ArmPrediction(
                    arm,
                    predictions[arm][case],
                    units[arm].record.choices.reading,
                    mean_dice(r for r in rows[arm] if r.case == case),
                    confidence[arm].get(case, ""),
                )
                for arm in units
                if case in predictions[arm]
            ),
            page=folder / FOLDER / f"{case}.html" if case in paged else None,
            facts=study_facts | {"rank": rank, "patient": by_case[case][0].patient},
            table=measurements(by_case[case], material.files.arms(), study),
            neighbours=_neighbours(case, paged),
        )
        for rank, case in enumerate(order, start=1)
    ]
    qualities = build_case_pages(tasks, material.options, jobs)
    pages = {case: page_name(case) for case in paged}
    return CaseReadings(tuple(units), n, tuple(order), pages, tuple(qualities), tuple(missing))


def _neighbours(case: str, paged: Sequence[str]) -> tuple[str | None, str | None]:
    if case not in paged:
        return None, None
    place = paged.index(case)
    return paged[place - 1] if place else None, paged[place + 1] if place + 1 < len(paged) else None


def measurements(rows: Sequence[CaseRow], arms: Sequence[str], study: StudyRows) -> dict[str, Any]:
    """Arranges Dice and HD95 of one case as arm × size, means over repeats and labels."""
    cells: dict[tuple[str, int], list[CaseRow]] = {}
    for row in rows:
        cells.setdefault((row.arm, row.n), []).append(row)
    lines, any_distance = [], False
    for arm in arms:
        line: list[dict[str, str | None] | None] = []
        for n in study.sizes:
            of_cell = cells.get((arm, n))
            if not of_cell:
                line.append(None)
                continue
            distances = [r.hd95 for r in of_cell if math.isfinite(r.hd95)]
            any_distance |= bool(distances)
            hd95 = number(float(np.mean(distances)), 1) if distances else None
            line.append({"dice": number(mean_dice(of_cell)), "hd95": hd95})
        if any(line):
            lines.append({"arm": arm, "cells": line})
    return {"sizes": list(study.sizes), "lines": lines, "labels": len(study.labels), "hd95": any_distance}
