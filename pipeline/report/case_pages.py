"""A page for each test case, with a slice viewer; and what was learned while its predictions were read.

The viewer is our own because nilearn's `view_img` shows one statistical map on one background, without contours or a
choice of arms, and brings jQuery and a slice of 8-bit colour for every voxel: three times the size of these pages.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.parallel import in_workers
from pipeline.config.report_options import ReportOptions
from pipeline.prediction.reading import ReadingOptions
from pipeline.report.case_readings import PredictionQuality
from pipeline.report.case_scene import ShownCase, read_case
from pipeline.report.figure_style import PREDICTION, REFERENCE
from pipeline.report.number_text import number
from pipeline.report.page import page_environment
from pipeline.report.shown_labels import ShownLabels
from pipeline.report.viewer_volume import (
    ENTROPY_LEVELS,
    ViewerGrid,
    image_sheet,
    packed,
    packed_entropy,
    start_voxel,
    structure_box,
)
from pipeline.report.voxel_errors import VoxelErrors
from pipeline.storage.atomic import write_text

FOLDER = "cases"


@dataclass(frozen=True)
class ArmPrediction:
    """The prediction of a case by one arm.

    Attributes:
        arm: preset name.
        path: the file.
        reading: how the arm reads it.
        dice: mean over labels that the tables hold; NaN where there is none.
        confidence: estimated Dice with its error, ready for printing; empty where the error is not known.
    """

    arm: str
    path: Path
    reading: ReadingOptions
    dice: float
    confidence: str = ""


@dataclass(frozen=True)
class CaseTask:
    """What a case's page is made from.

    Attributes:
        case: its name.
        arrays: `arrays.safetensors` of the preprocessed case.
        class_values: class name → values in its label map.
        ignored: values of voxels without annotation in it.
        predictions: by arm, the best arm first.
        page: where the page goes; None only reads the predictions.
        facts: what the head of the page says, ready for printing.
        table: lines of the table of measurements: arm, then cells.
        neighbours: names of the case before and the case after, among those with a page.
    """

    case: str
    arrays: Path
    class_values: dict[str, list[int]]
    ignored: list[int]
    predictions: tuple[ArmPrediction, ...]
    page: Path | None
    facts: dict[str, Any]
    table: dict[str, Any]
    neighbours: tuple[str | None, str | None]


def page_name(case: str) -> str:
    """Address of a case's page as seen from `report/index.html`; relative, percent-encoded."""
    return f"{FOLDER}/{quote(case, safe='')}.html"


def build_case_pages(tasks: Sequence[CaseTask], options: ReportOptions, jobs: int) -> list[PredictionQuality]:
    """Reads the predictions of every task's case and writes its page.

    Args:
        tasks: the cases.
        options: of the report.
        jobs: cases at a time.

    Returns:
        One record per case and arm, in the order of the tasks.

    Raises:
        WorkspaceError: a file is damaged.
    """
    workers = max(1, min(jobs, len(tasks)))
    done = in_workers(_build_case, ((task, options) for task in tasks), workers, ordered=True)
    return [record for of_case in done for record in of_case]


def _build_case(task: CaseTask, options: ReportOptions) -> list[PredictionQuality]:
    records, shown = [], []
    grid: ViewerGrid | None = None
    first: ShownCase | None = None
    labels: ShownLabels | None = None
    for prediction in task.predictions:
        read = read_case(task.arrays, prediction.path, task.class_values, prediction.reading, task.ignored)
        scene = read.scene
        wrong = scene.prediction != scene.reference
        errors = VoxelErrors.count(scene.entropy, wrong, read.inside & ~scene.ignored)
        records.append(
            PredictionQuality(task.case, prediction.arm, prediction.dice, read.draws, errors, prediction.confidence)
        )
        if task.page is not None:
            if grid is None or first is None or labels is None:
                grid, first = ViewerGrid.around(scene, options.viewer_voxels), read
                labels = ShownLabels(read.classes, read.heads)
            shown.append(
                {
                    "name": prediction.arm,
                    "mask": packed(labels.numbers(grid.labels(scene.prediction))),
                    "entropy": packed_entropy(scene, grid),
                    "window": [round(end, 3) for end in scene.entropy_window],
                    "note": _note(prediction, read),
                }
            )
    if task.page is not None and grid is not None and first is not None and labels is not None:
        write_text(task.page, _page(task, options, grid, first, labels, shown))
    return records


def _note(prediction: ArmPrediction, read: ShownCase) -> str:
    draws = f"{read.draws} posterior draws" if read.draws > 1 else "a single network"
    estimate = f", estimated Dice {prediction.confidence} (from the expected Dice)" if prediction.confidence else ""
    return f"Dice {number(prediction.dice)}{estimate}, {draws}"


def _page(
    task: CaseTask,
    options: ReportOptions,
    grid: ViewerGrid,
    first: ShownCase,
    labels: ShownLabels,
    arms: list[dict[str, Any]],
) -> str:
    sheet = image_sheet(first.scene, grid)
    spacing = [float(v) for v in first.scene.spacing * grid.factor]
    reference = labels.numbers(grid.labels(first.scene.reference))
    data = {
        "shape": grid.shape,
        "spacing": spacing,
        "affine": grid.affine.round(5).tolist(),
        "columns": sheet["columns"],
        "levels": ENTROPY_LEVELS,
        "classes": labels.names,
        "ignored": labels.ignored,
        "colours": {"reference": REFERENCE, "prediction": PREDICTION},
        "start": start_voxel(first.scene, grid),
        "box": structure_box(first.scene, grid, options.overlay_margin_mm),
        "reference": packed(reference),
        "arms": arms,
    }
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    before, after = task.neighbours
    return (
        page_environment()
        .get_template("case.html.j2")
        .render(
            case=task.case,
            facts=task.facts,
            table=task.table,
            channel=first.channel,
            arms=[arm["name"] for arm in arms],
            planes=[("sagittal", 0), ("coronal", 1), ("axial", 2)],
            radiological=options.radiological,
            spacing=" × ".join(f"{mm:.3g}" for mm in spacing),
            coarser=bool((grid.factor > 1).any()),
            shape=grid.shape,
            sheet=sheet["uri"],
            data=data,
            script=script,
            script_digest=digest,
            partly_annotated=bool(labels.ignored),
            reference_colour=REFERENCE,
            prediction_colour=PREDICTION,
            before=before and quote(before, safe="") + ".html",
            after=after and quote(after, safe="") + ".html",
        )
    )


def _script() -> str:
    # As the browser hashes it for the page's policy: the text between the tags, unchanged.
    return (files("pipeline.report") / "templates/viewer.js").read_text(encoding="utf-8")
