"""Best, median and worst test case: reference and prediction in three planes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import WorkspaceError
from pipeline.evaluation.comparison import best_rival
from pipeline.evaluation.metrics import count_voxels, dice
from pipeline.evaluation.tables import CaseRow, StudyRows
from pipeline.report.figure_style import PREDICTION, REFERENCE
from pipeline.report.overlay_figure import PLANES, Scene, slice_figure
from pipeline.report.section import Material, Section, number
from pipeline.report.study_files import InferredUnit
from pipeline.storage.tensors import load_about, load_arrays


def overlay_section(material: Material) -> Section:
    """Builds the section of overlays from `results/cases.csv`, `infer/…/predictions` and `preprocess/…`."""
    title, study = "Segmentations", material.files.study
    if study is None:
        return Section(
            "overlays", title, missing=("results/cases.csv is missing, so no cases can be ranked for overlays.",)
        )
    n = study.sizes[-1]
    missing: list[str] = []
    shown: list[dict[str, Any]] = []
    chosen: list[tuple[str, str]] = []
    for arm in arms_to_show(material, study, n):
        unit = next((u for u in material.files.units if (u.arm, u.n) == (arm, n) and u.predictions()), None)
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
        content = {"arms": shown, "reference_colour": REFERENCE, "prediction_colour": PREDICTION}
    return Section("overlays", title, content, tuple(dict.fromkeys(missing)))


def arms_to_show(material: Material, study: StudyRows, n: int) -> list[str]:
    """Returns the arms to show: the best by mean Dice, then the best rival, then the others by mean Dice."""
    table = study.table("dice", n)
    means = {
        arm: float(np.nanmean(v)) if np.isfinite(v).any() else -math.inf
        for arm, v in zip(table.arms, table.values, strict=True)
    }
    order = sorted(means, key=lambda arm: -means[arm])
    rival = best_rival(study, "dice", n, material.rivals())
    if rival is not None and rival in order[1:]:
        order.remove(rival)
        order.insert(1, rival)
    return order[: material.options.overlay_arms]


def best_median_worst(rows: list[CaseRow], available: set[str]) -> list[tuple[str, str]]:
    """Ranks the cases of one trained arm by Dice (mean over labels); returns `(rank, case)`, fewer with few cases."""
    by_case: dict[str, list[float]] = {}
    for row in rows:
        if row.case in available and math.isfinite(row.dice):
            by_case.setdefault(row.case, []).append(row.dice)
    order = sorted(by_case, key=lambda case: (-float(np.mean(by_case[case])), case))
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
    scene, channel, checked = read_scene(folder / "arrays.safetensors", path, classes)
    name = f"overlay-{unit.arm}-{rank}"
    about = f"case {case}, {unit.arm}, n = {unit.n}"
    panels = []
    for plane in PLANES:
        figure = slice_figure(scene, plane, material.options.overlay_margin_mm)
        alt = f"{plane} slice of {about}, with contours of reference and prediction"
        panels.append((plane, material.pictures.add(f"{name}-{plane}", figure, alt, colours=128)))
    if scene.entropy is not None:
        figure = slice_figure(scene, "axial", material.options.overlay_margin_mm, entropy=True)
        picture = material.pictures.add(
            f"{name}-entropy", figure, f"axial map of predictive entropy of {about}", colours=128
        )
        panels.append(("axial, uncertainty", picture))
    table = float(np.mean([r.dice for r in rows if math.isfinite(r.dice)])) if rows else math.nan
    return {
        "rank": rank, "case": case, "channel": channel, "panels": panels, "dice": number(table),
        "patient": rows[0].patient if rows else "",
        # A picture that does not show what the table measured must say so.
        "differs": number(checked) if math.isfinite(table) and abs(checked - table) > 0.05 else None,
    }  # fmt: skip


def read_scene(
    arrays_path: Path, prediction_path: Path, class_values: Mapping[str, Sequence[int]]
) -> tuple[Scene, str, float]:
    """Reads a case and its prediction.

    Args:
        arrays_path: `arrays.safetensors` of the preprocessed case.
        prediction_path: `probability` `[K, X, Y, Z]` of the foreground classes, perhaps with `entropy`.
        class_values: class name → its values in the label map; the prediction names its K classes. 1…K where unknown.

    Returns:
        The maps in RAS+, the name of the channel shown, and the mean Dice over classes recomputed from these maps.

    Raises:
        WorkspaceError: the files lack an array or are on different grids.
    """
    arrays, prediction = load_arrays(arrays_path), load_arrays(prediction_path)
    about = load_about(arrays_path)
    try:
        image, reference = arrays["image"], arrays["label"]
        probability, affine = prediction["probability"].astype(np.float32), np.array(about["affine"], dtype=np.float64)
    except KeyError as error:
        raise WorkspaceError(
            f"{prediction_path}: it or {arrays_path} lacks {error}",
            expected="image, label and affine there, probability here",
            mend="run the preprocess and infer stages again",
        ) from error
    if probability.shape[1:] != reference.shape:
        raise WorkspaceError(
            f"{prediction_path}: the prediction has the grid {probability.shape[1:]}, the case {reference.shape}",
            expected="one grid",
            mend="run the infer stage again",
        )
    mask = hard_labels(probability)
    classes = range(1, len(probability) + 1)
    named = load_about(prediction_path).get("classes") or list(class_values)
    known = len(named) == len(classes) and set(named) <= set(class_values)
    values = [class_values[name] for name in named] if known else [[k] for k in classes]
    reference = sum((np.isin(reference, v) * k for k, v in zip(classes, values, strict=True)), np.zeros_like(mask))
    overlap = float(np.mean([dice(count_voxels(mask == k, reference == k)) for k in classes]))
    names = about.get("channels") or about.get("channel_names") or [""]
    shown = np.where(arrays.get("mask", np.ones(mask.shape)) > 0, image[0], np.nan)
    entropy = prediction.get("entropy")
    if entropy is not None:
        entropy = entropy.astype(np.float32) / math.log(len(probability) + 1)
    scene = Scene.oriented(shown, reference, mask, entropy, affine)
    return scene, str(next(iter(names), "")), overlap


def hard_labels(probability: NDArray[np.float32]) -> NDArray[np.int16]:
    """Turns `[K, X, Y, Z]` foreground probabilities into a label map; the background has what is left to one."""
    background = 1 - probability.sum(axis=0, keepdims=True)
    return np.concatenate([background, probability]).argmax(axis=0).astype(np.int16)
