"""preprocess: converts every case that the study uses from raw scan to network input."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import Case
from pipeline.config.study import StudyConfig
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import complete, run_stage
from pipeline.execution.unit import Outcome, Unit
from pipeline.execution.units import StageRun
from pipeline.report.quality_index import build_quality_index
from pipeline.report.quality_section import case_quality
from pipeline.stages import check
from pipeline.stages.resources import Resources
from pipeline.stages.study_plan import StudyPlan
from pipeline.stages.unlabelled_scans import planned_datasets
from pipeline.storage.atomic import write_record
from pipeline.storage.cached_case import ARRAYS, IMAGE_DIGEST, SCAN_BOX
from pipeline.storage.digest import array_digest
from pipeline.storage.file_names import FILES, QUALITY, QUALITY_PICTURE, RECORD
from pipeline.storage.owned_folder import require_own_unchanged
from pipeline.storage.tensors import save_arrays
from pipeline.storage.workspace import Workspace
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.padding import scan_box
from preprocessing.quality_control import case_picture
from preprocessing.step_record import ChainRecord
from preprocessing.subject import load_subject

logger = logging.getLogger(__name__)

STAGE = "preprocess"


def preprocess_case(
    folder: Path,
    progress: ProgressFile,
    *,
    case: Case,
    channels: Sequence[str],
    options: PreprocessingOptions,
    doubts: Sequence[str] = (),
    ignored: Sequence[int] = (),
) -> None:
    """Runs the chain on one case and writes arrays, record, picture and numbers for quality control.

    The doubts of the checks about the scan are written next to what the steps found suspect. `ignored` are the values
    of voxels without annotation: they are carried like any label, and outlined in the picture.

    Raises:
        GraftError: the case cannot be read, or a step fails on it.
    """
    raw = load_subject(case, channels, ignored)
    processed, records = Chain(options).apply(raw, progress)
    arrays: dict[str, NDArray[Any]] = {"image": processed.image(), "mask": processed.content().astype(np.uint8)}
    if processed.label is not None:
        arrays["label"] = processed.label.array.astype(np.int16)
    about = {
        "affine": processed.reference.affine.tolist(),
        "channels": list(processed.channels),
        "case": case.name,
        IMAGE_DIGEST: array_digest(arrays["image"]),
    }
    if box := scan_box(records):
        about[SCAN_BOX] = box
    save_arrays(folder / ARRAYS, arrays, about)
    write_record(folder / RECORD, ChainRecord.model_validate(records))
    quality = case_picture(raw, processed, records, folder / QUALITY_PICTURE, doubts)
    write_record(folder / QUALITY, quality)


def units(config: StudyConfig, workspace: Workspace, resources: Resources) -> list[Unit]:
    """One unit for each case that the study uses and that the checks found usable.

    Raises:
        GraftError: `check` has not been run, or a dataset as a whole is not usable.
    """
    return _planned(check.read_examination(config, workspace))[0]


def _planned(examination: check.Examination) -> tuple[list[Unit], list[Outcome]]:
    """The units of the cases that are usable, and the failures of the others."""
    plan = examination.plan
    datasets = planned_datasets(plan)
    usable: list[Unit] = []
    refused: list[Outcome] = []
    for name, cases in plan.used_cases().items():
        bad, doubts = examination.bad_cases(datasets[name].root), examination.doubts(datasets[name].root)
        refused += [Outcome(f"{name}/{case}", "failed", message=bad[case]) for case in cases if case in bad]
        sound = [datasets[name].case(case) for case in cases if case not in bad]
        usable += [_unit(name, case, plan, doubts.get(case.name, [])) for case in sound]
    plan.workspace.file_digests.save()
    return usable, refused


def _unit(dataset: str, case: Case, plan: StudyPlan, doubts: Sequence[str]) -> Unit:
    options, channels = plan.config.datasets[dataset].preprocessing, tuple(plan.channels[dataset])
    ignored = list(plan.ignored.get(dataset, ()))
    extra = ({"doubts": list(doubts)} if doubts else {}) | ({"ignored": ignored} if ignored else {})
    recipe = {
        "files": plan.workspace.file_digests.of_files(case.files()),
        "channels": list(channels),
        "chain": options.model_dump(mode="json"),
        # Earlier versions did not tell which voxels padding had added.
        "version": 3 if options.padding is None else 4,
        **extra,
    }
    arguments = {"case": case, "channels": channels, "options": options, **extra}
    return Unit(STAGE, f"{dataset}/{case.name}", recipe, preprocess_case, arguments)


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Preprocesses all cases of the plan; unusable ones count as failed, and the others are done.

    Raises:
        GraftError: a dataset as a whole is not usable, or somebody has changed the page of the cases.
        StageError: cases failed; the others are done and kept.
    """
    require_own_unchanged(workspace.root / STAGE, FILES)
    usable, refused = _planned(check.examine(config, workspace, resources))
    done = run_stage(STAGE, usable, workspace, resources.execution(config))
    done = replace(done, outcomes=(*done.outcomes, *refused))
    suspects = _suspects(usable, workspace)
    _summarise(done, suspects, workspace)
    complete(STAGE, done)


def _suspects(units: Sequence[Unit], workspace: Workspace) -> dict[str, list[str]]:
    """Case → reasons why its result is implausible."""
    found: dict[str, list[str]] = {}
    for unit in units:
        folder = workspace.unit_folder(STAGE, unit.key)
        if (folder / RECORD).is_file():
            found[unit.key] = [f"{step}: {reason}" for step, reason in case_quality(folder).suspect]
    return {key: reasons for key, reasons in found.items() if reasons}


def _summarise(done: StageRun, suspects: Mapping[str, Sequence[str]], workspace: Workspace) -> None:
    """Logs done, suspect and failed cases, including suspect ones of earlier runs, and writes the page of the cases."""
    failures = {failure.key: failure.message for failure in done.failures}
    for key, reasons in suspects.items():
        if key not in failures:
            logger.warning("suspect %s: %s", key, "; ".join(reasons))
    for key, message in failures.items():
        logger.warning("failed  %s: %s", key, message)
    sound = done.count("done") + done.count("reused")
    implausible = len(set(suspects) - set(failures))
    page = build_quality_index(workspace.root / STAGE, failures)
    logger.info(
        "%s: %d done, %d of them suspect, %d failed; look at %s", STAGE, sound, implausible, len(failures), page
    )
