"""`graft preprocess --model`: prepares new scans for the bundle of a model, and carries its masks back.

DIR/
NAME.nii.gz               a scan as the network takes it; NAME_0000.nii.gz and so on for several channels
records/NAME/record.json  what the chain did, so that a mask can be carried back to the scan
prepared.json             marks the folder as one of prepared scans, and names the model
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data.case import Case
from data.errors import ConfigError, DataError, WorkspaceError
from data.image_file import read_label, write_volume
from data.stored_record import record_if_there
from data.volume import Volume
from pipeline.deployment.bundle_example import input_names
from pipeline.deployment.input_cases import InputCase, collect_cases
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import read_description
from pipeline.deployment.predict_options import SuspicionLimits
from pipeline.deployment.prepared_records import PreparedFolder, PreparedFor, PreparedScan
from pipeline.deployment.raw_scan import RawScan
from pipeline.deployment.suspicion import chain_reasons, scan_reasons
from pipeline.execution.progress import ProgressFile
from pipeline.execution.stage import complete
from pipeline.execution.unit import MARKER, Outcome, Unit
from pipeline.execution.units import Execution, StageRun, run_units
from pipeline.prediction.native_maps import NativeMaps
from pipeline.prediction.native_mask import native_mask
from pipeline.storage.atomic import write_record
from pipeline.storage.file_names import RECORD
from pipeline.storage.owned_folder import set_aside
from pipeline.storage.workspace import Workspace
from preprocessing.chain import Chain

logger = logging.getLogger(__name__)

PREPARE, CLAIM, RECORDS = "preprocess", "prepared.json", "records"
_MASK = "_mask"
_SUFFIX = ".nii.gz"


def prepare(model: Path, inputs: Sequence[Path], output: Path, jobs: int | None = None) -> int:
    """Preprocesses scans with the chain of a model and returns their number.

    Finished scans are kept, and a bad one does not stop the others.

    Raises:
        GraftError: the model or an input as a whole is not usable, or the output folder holds something else.
        StageError: scans failed; the others are done.
    """
    about, digest = read_description(model)
    cases = collect_cases(inputs, about.channels)
    if not cases:
        raise ConfigError("there is no scan to preprocess", expected="files, folders or datasets", fix="name some")
    _claim(output, about, digest)
    workspace = Workspace(output)
    with workspace.lock():
        units = [_unit(case.case, about, digest, output, workspace) for case in cases if case.case is not None]
        workspace.file_digests.save()
        run = run_units(RECORDS, units, workspace, Execution.sharing_cores(jobs, len(cases)))
    _warn_of_suspects(cases, output)
    refused = tuple(Outcome(c.name, "failed", message=c.fault) for c in cases if c.case is None)
    complete(PREPARE, StageRun((*run.outcomes, *refused), run.wall_seconds))
    return len(cases)


def _claim(output: Path, about: ModelDescription, digest: str) -> None:
    """Marks the folder as one of prepared scans.

    Raises:
        WorkspaceError: it holds something else, or scans prepared for another model.
    """
    if output.is_dir() and any(p.name[0] != "." for p in output.iterdir()):
        claimed = record_if_there(output / CLAIM, PreparedFolder)
        if claimed is None or claimed.model.sha256 != digest:
            other = "holds files that are not prepared scans" if claimed is None else "holds scans for another model"
            raise WorkspaceError(
                f"{output}: {other}",
                expected="a new or empty folder, or one prepared for this model",
                fix="name another with --output",
            )
    claim = PreparedFolder(model=PreparedFor(study=about.study, arm=about.arm_name, sha256=digest))
    write_record(Workspace(output).root / CLAIM, claim)


def volume_names(case: str, channels: int) -> list[str]:
    """Names of the files of a prepared scan, as the bundle expects them."""
    return [f"{name}{_SUFFIX}" for name in input_names(case, channels)]


def _unit(case: Case, about: ModelDescription, digest: str, output: Path, workspace: Workspace) -> Unit:
    recipe = {
        "model": digest,
        "files": workspace.file_digests.of_files(case.files()),
        "frames": [source.frame for source in case.channels.values()],
        "version": 1,
    }
    if not all((output / name).is_file() for name in volume_names(case.name, len(about.channels))):
        # The record is useless without the volumes.
        set_aside(workspace.unit_folder(RECORDS, case.name), MARKER)
    arguments = {"case": case, "about": about, "digest": digest, "output": output.absolute()}
    return Unit(RECORDS, case.name, recipe, prepare_case, arguments)


def prepare_case(
    folder: Path, progress: ProgressFile, *, case: Case, about: ModelDescription, digest: str, output: Path
) -> None:
    """Preprocesses a scan; its volumes go to `output`, the record of the steps to `folder`.

    Raises:
        GraftError: the scan cannot be read or is of another modality, or a preprocessing step fails.
    """
    scan = RawScan.read(case, about.channels)
    reasons = scan_reasons(scan, about.modality, SuspicionLimits())
    processed, records = Chain(about.preprocessing).apply(scan.subject)
    reasons += chain_reasons(records)
    for name, volume in zip(volume_names(case.name, len(about.channels)), processed.channels.values(), strict=True):
        # The unit's folder gets its name when it is complete; its volumes go where the bundle looks for them.
        write_volume(volume.with_array(volume.array.astype(np.float32, copy=False)), folder / name)
        os.replace(folder / name, output / name)
    record = PreparedScan(
        model=digest,
        affine=processed.reference.affine.tolist(),
        records=records,
        suspect=tuple(reasons),
        sources={name: source.path.name for name, source in case.channels.items()},
    )
    write_record(folder / RECORD, record)


def _warn_of_suspects(cases: Sequence[InputCase], output: Path) -> None:
    """Logs the scans to review, including those that an earlier command prepared."""
    for case in cases:
        record = record_if_there(output / RECORDS / case.name / RECORD, PreparedScan)
        for reason in record.suspect if record else ():
            logger.warning("suspect %s: %s", case.name, reason)


def carry_back(model: Path, prepared: Path, masks: Path, output: Path) -> int:
    """Carries the bundle's masks (`NAME_mask.nii.gz`) of prepared scans to the scans' grids and returns their number.

    Each structure is interpolated linearly, and a voxel gets the structure that fills most of it.

    Raises:
        GraftError: the model is not usable, a mask has no record or another grid, or the output would be overwritten.
    """
    about, digest = read_description(model)
    files = sorted(masks.glob(f"*{_MASK}{_SUFFIX}"))
    if not files:
        raise DataError(
            f"{masks}: holds no masks",
            expected=f"NAME{_MASK}{_SUFFIX}, as the bundle writes them",
            fix="name the folder",
        )
    if there := [file.name for file in files if (output / file.name).exists()]:
        raise WorkspaceError(
            f"{output / there[0]}: already exists", expected="a new or empty folder", fix="name another with --output"
        )
    records = {file: _record(file, prepared, about, digest) for file in files}
    for file, record in records.items():
        carried = _in_scan_space(file, record, about)
        output.mkdir(parents=True, exist_ok=True)
        write_volume(carried, output / file.name)
    return len(files)


def _record(mask: Path, prepared: Path, about: ModelDescription, digest: str) -> PreparedScan:
    stem = mask.name.removesuffix(f"{_MASK}{_SUFFIX}")
    name = stem if len(about.channels) == 1 else stem.removesuffix("_0000")
    path = prepared / RECORDS / name / RECORD
    record = record_if_there(path, PreparedScan)
    if record is None or record.model != digest:
        raise DataError(
            f"{path}: {'belongs to another model' if record else 'is missing'}, so {mask.name} cannot be carried back",
            expected="the folder that `graft preprocess --model` wrote for this model",
            fix="name it as the input",
        )
    return record


def _in_scan_space(file: Path, record: PreparedScan, about: ModelDescription) -> Volume:
    mask, affine = read_label(file), np.asarray(record.affine, dtype=np.float64)
    if not np.allclose(mask.affine, affine, atol=1e-3):
        raise DataError(
            f"{file}: lies on a different grid from the prepared scan",
            expected="the mask as the bundle wrote it",
            fix="run the bundle on the prepared scans again",
        )
    native = NativeMaps(Chain(about.preprocessing), record.records, affine)
    values = list(about.classes.values())
    maps = (native(torch.from_numpy(about.heads.holds(mask.array, value))) for value in values)
    return native_mask(maps, values, heads=about.heads)
