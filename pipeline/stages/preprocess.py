"""preprocess: every case that plays a role, from raw scan to network input."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.case import Case
from pipeline.config.study import StudyConfig
from pipeline.progress import ProgressFile
from pipeline.report.quality_index import build_quality_index
from pipeline.report.quality_section import case_quality
from pipeline.stages import check
from pipeline.stages.cohorts import read_datasets
from pipeline.stages.resources import Resources
from pipeline.stages.stage import complete, run_stage
from pipeline.storage.atomic import write_json
from pipeline.storage.tensors import save_arrays
from pipeline.storage.units import Outcome, StageRun, Unit
from pipeline.storage.workspace import Workspace
from pipeline.training.cached_case import ARRAYS
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.quality_control import case_picture
from preprocessing.subject import load_subject

logger = logging.getLogger(__name__)

STAGE = "preprocess"
RECORD = "record.json"


def preprocess_case(
    folder: Path,
    progress: ProgressFile,
    *,
    case: Case,
    channels: Sequence[str],
    options: PreprocessingOptions,
    doubts: Sequence[str] = (),
) -> None:
    """Carries out the chain on one case and writes arrays, record, picture and numbers for quality control.

    What the checks doubt of the scan itself is written beside what the steps found suspect.

    Raises:
        GraftError: the case cannot be read, or a step cannot be carried out on it.
    """
    raw = load_subject(case, channels)
    processed, records = Chain(options).apply(raw, progress)
    volumes = list(processed.channels.values())
    arrays = {"image": np.stack([v.array.astype(np.float32) for v in volumes])}
    if processed.label is not None:
        arrays["label"] = processed.label.array.astype(np.int16)
    mask = processed.mask.array > 0 if processed.mask is not None else np.ones(volumes[0].shape, dtype=bool)
    arrays["mask"] = mask.astype(np.uint8)
    about = {"affine": volumes[0].affine.tolist(), "channels": list(processed.channels), "case": case.name}
    save_arrays(folder / ARRAYS, arrays, about)
    write_json(folder / RECORD, records)
    write_json(folder / "qc.json", case_picture(raw, processed, records, folder / "qc.png", doubts))


def run(config: StudyConfig, workspace: Workspace, resources: Resources) -> None:
    """Preprocesses all cases of the plan; one that the checks found unusable counts as failed, and the others are done.

    Raises:
        GraftError: a dataset as a whole is not usable.
        StageError: cases failed; the others are done and kept.
    """
    examination = check.examine(config, workspace, resources)
    plan = examination.plan
    datasets = read_datasets(config, workspace)
    execution = resources.execution(config)
    units = []
    refused: list[Outcome] = []
    for name, cases in plan.used_cases().items():
        options = config.datasets[name].preprocessing
        bad, doubts = examination.bad_cases(datasets[name].root), examination.doubts(datasets[name].root)
        for case in map(datasets[name].case, cases):
            if case.name in bad:
                refused.append(Outcome(f"{name}/{case.name}", "failed", message=bad[case.name]))
                continue
            recipe = {
                "files": workspace.file_digests.of_files(case.files()),
                "channels": list(plan.channels[name]),
                "chain": options.model_dump(mode="json"),
                "version": 2,
            }
            arguments = {"case": case, "channels": tuple(plan.channels[name]), "options": options}
            if case.name in doubts:
                recipe["doubts"] = arguments["doubts"] = doubts[case.name]
            units.append(Unit(STAGE, f"{name}/{case.name}", recipe, preprocess_case, arguments))
    workspace.file_digests.save()
    done = run_stage(STAGE, units, workspace, execution)
    done = replace(done, outcomes=(*done.outcomes, *refused))
    suspects = _suspects(units, workspace)
    _tell(done, suspects, workspace)
    complete(STAGE, done)


def _suspects(units: Sequence[Unit], workspace: Workspace) -> dict[str, list[str]]:
    """Case → reasons why its outcome is implausible."""
    found: dict[str, list[str]] = {}
    for unit in units:
        folder = workspace.unit_folder(STAGE, unit.key)
        if (folder / RECORD).is_file():
            found[unit.key] = [f"{step}: {reason}" for step, reason in case_quality(folder).suspect]
    return {key: reasons for key, reasons in found.items() if reasons}


def _tell(done: StageRun, suspects: Mapping[str, Sequence[str]], workspace: Workspace) -> None:
    """Counts done, suspect and failed cases and writes the quality control page.

    A case that looks implausible is never silent, also when it was done in an earlier run.
    """
    failures = {failure.key: failure.message for failure in done.failures}
    for key, reasons in suspects.items():
        if key not in failures:
            logger.warning("suspect %s: %s", key, "; ".join(reasons))
    for key, message in failures.items():
        logger.warning("failed  %s: %s", key, message)
    sound = len(done.outcomes) - len(failures)
    implausible = len(set(suspects) - set(failures))
    page = build_quality_index(workspace.root / STAGE, failures)
    logger.info(
        "%s: %d done, %d of them suspect, %d failed; look at %s", STAGE, sound, implausible, len(failures), page
    )
