"""`graft predict`: new scans to masks, uncertainty and numbers on their own grids."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from data.errors import ConfigError, WorkspaceError
from data.plain_number import plain_number
from models.networks.imported_network import network_code_allowed
from pipeline.config.reading import read_command_options
from pipeline.deployment.bids_derivative import DESCRIPTION, dataset_links, link_names, write_derivative_files
from pipeline.deployment.case_files import CaseFiles, require_apart
from pipeline.deployment.case_prediction import predict_input
from pipeline.deployment.input_cases import InputCase, collect_cases
from pipeline.deployment.model_description import ModelDescription
from pipeline.deployment.model_folder import find_model, read_description
from pipeline.deployment.network_code import require_network_code
from pipeline.deployment.predict_options import PredictOptions
from pipeline.deployment.prediction_table import Row, earlier_rows, prediction_rows, write_predictions
from pipeline.evaluation.dice_fit import DiceEstimate
from pipeline.execution.device import chosen_device
from pipeline.execution.provenance import graft_version
from pipeline.execution.stage import complete
from pipeline.execution.units import MARKER, Execution, Outcome, StageRun, Unit, run_units
from pipeline.storage.atomic import remove_temporaries, temporary_room, write_json
from pipeline.storage.file_names import PREDICTION, PREDICTION_TABLE
from pipeline.storage.owned_folder import (
    Changed,
    changed_files,
    contents,
    listed_files,
    read_manifest,
    require_unchanged,
    set_aside,
    settle,
)
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

PREDICT = "predict"
_SHOWN = 40


@dataclass(frozen=True)
class PredictRequest:
    """What the command was asked for.

    Attributes:
        model: folder of the model.
        inputs: files, folders and datasets.
        output: folder of the results.
        options: of the prediction.
        jobs: cases at a time.
        device: `auto`, `cpu` or `cuda`.
        resume: keep finished cases.
        allow_network_code: whether a network that is code outside Graft may be run.
    """

    model: Path
    inputs: tuple[Path, ...]
    output: Path
    options: PredictOptions = field(default_factory=PredictOptions)
    jobs: int | None = None
    device: str = "auto"
    resume: bool = True
    allow_network_code: bool = False


def predict_options(overrides: Sequence[str], given: Mapping[str, Any] | None = None) -> PredictOptions:
    """Reads `--set a.b=c` and the command's own options, which win.

    Raises:
        ConfigError: an option is unknown or not allowed.
    """
    return read_command_options("predict", PredictOptions, overrides, given)


def predict(request: PredictRequest) -> list[Row]:
    """Predicts the scans; finished ones are kept, and a bad one does not stop the others.

    Returns:
        the rows of these scans in `predictions.csv`.

    Raises:
        GraftError: the model or an input as a whole is not usable.
        StageError: cases failed; the others are done.
    """
    with network_code_allowed(request.allow_network_code):
        description, digest = read_description(request.model)
    require_network_code(description.network)
    folder = find_model(request.model).resolve()
    cases = collect_cases(request.inputs, description.channels)
    if not cases:
        raise ConfigError("there is no scan to predict", expected="files, folders or datasets", fix="name some")
    require_apart(CaseFiles.of(case) for case in cases if case.case is not None)
    _refuse_foreign(request.output)
    _make_folder(request.output)
    workspace = Workspace(request.output)
    about = _about(request, description, digest)
    with workspace.lock():
        # The cases lie beside each other in the output folder, and so does what a killed command left of one.
        remove_temporaries(request.output)
        require_unchanged(request.output, PREDICTION, [PREDICTION_TABLE])
        roots = list(dict.fromkeys(case.bids for case in cases if case.bids is not None))
        links = dataset_links(request.output, roots)
        names = link_names(request.output, roots, links)
        bids = bool(roots) or DESCRIPTION in listed_files(request.output, PREDICTION)
        known = read_manifest(request.output / PREDICTION) or {"files": {}, "sha256": {}}
        write_json(request.output / PREDICTION, known | about)
        execution, device = _resources(request, len(cases))
        usable = [case for case in cases if case.case is not None]
        files = {case.name: CaseFiles.of(case, names) for case in usable}
        units = {c.name: _unit(c, files[c.name], folder, digest, request, device, workspace) for c in usable}
        workspace.file_digests.save()
        run = run_units(PREDICT, list(units.values()), workspace, execution)
        outcomes = _outcomes(request.output, cases, units, run)
        rows = prediction_rows(request.output, [(c.name, files.get(c.name), outcomes[c.name]) for c in cases])
        earlier = earlier_rows(request.output, request.output / PREDICTION_TABLE, outcomes)
        with temporary_room(request.output) as room:
            write_predictions(room / PREDICTION_TABLE, sorted([*rows, *earlier], key=lambda row: row["case"]))
            if bids:
                write_derivative_files(room, description, digest, links, request.output)
            write_json(room / PREDICTION, contents(room, PREDICTION) | about)
            require_unchanged(request.output, PREDICTION, [PREDICTION_TABLE])
            settle(room, request.output, PREDICTION, Changed.KEEP)
    _show(rows)
    complete(PREDICT, StageRun(tuple(outcomes.values()), run.wall_seconds))
    return rows


def _refuse_foreign(output: Path) -> None:
    """Keeps folders that something else wrote from being replaced, such as those of a BIDS dataset.

    Raises:
        WorkspaceError: the folder holds files and no predictions.
    """
    if output.is_dir() and not (output / PREDICTION).is_file() and any(p.name[0] != "." for p in output.iterdir()):
        raise WorkspaceError(
            f"{output}: holds files that are not predictions of Graft",
            expected="a new or empty folder, or one that `graft predict` wrote",
            fix="name another with --output",
        )


def _make_folder(output: Path) -> None:
    """Makes the folder of the results.

    Raises:
        WorkspaceError: it cannot be made, or not be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(output, os.W_OK | os.X_OK) else "no permission to write"
    except FileExistsError:
        reason = "a file is there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise WorkspaceError(
            f"{output}: cannot hold the results ({reason})",
            expected="a folder that can be written",
            fix="name another with --output",
        )


def _about(request: PredictRequest, model: ModelDescription, digest: str) -> dict[str, Any]:
    return {
        "graft_version": graft_version(),
        "model": {"study": model.study, "arm": model.arm_name, "sha256": digest},
        "options": request.options.model_dump(mode="json"),
    }


def _unit(
    case: InputCase,
    files: CaseFiles,
    model: Path,
    digest: str,
    request: PredictRequest,
    device: str,
    workspace: Workspace,
) -> Unit:
    if case.case is None:
        raise ValueError(f"case {case.name} cannot be predicted")
    sources = [(source.path, source.frame) for source in case.case.channels.values()]
    recipe = {
        "model": digest,
        "files": workspace.file_digests.of_files(case.case.files()),
        "frames": [frame for _, frame in sources],
        "options": request.options.model_dump(mode="json"),
        "version": 2,
    } | ({"sources": list(files.sources)} if files.bids else {})
    arguments = {
        "case": case.case,
        "files": files,
        "model": model,
        "digest": digest,
        "options": request.options,
        "device": device,
        "allow_code": request.allow_network_code,
    }
    # The stage has no folder of its own: the cases lie in the output folder.
    unit = Unit("", files.key, recipe, predict_input, arguments, changed=Changed.REFUSE)
    if not request.resume:
        set_aside(workspace.unit_folder(unit.stage, unit.key), MARKER)
    return unit


def _resources(request: PredictRequest, cases: int) -> tuple[Execution, str]:
    """One case at a time unless told otherwise, each with its share of the cores: scans are large.

    Raises:
        ConfigError: `cuda` is asked for and not there.
    """
    device = chosen_device(request.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(request.jobs or 1, cases)
    return Execution(jobs, max(cores // jobs, 1)), device


def _outcomes(folder: Path, cases: Sequence[InputCase], units: dict[str, Unit], run: StageRun) -> dict[str, Outcome]:
    """Case → outcome, those included that could not be tried."""
    by_key = {outcome.key: outcome for outcome in run.outcomes}
    outcomes = {}
    for case in cases:
        unit = units.get(case.name)
        outcomes[case.name] = Outcome(case.name, "failed", message=case.fault) if unit is None else by_key[unit.key]
        if unit is not None and outcomes[case.name].state == "reused":
            # The table is made from it.
            own = unit.arguments["files"].facts
            if own in changed_files(folder / unit.key, MARKER):
                path = folder / unit.key / own
                fault = f"{path}: has been changed since Graft wrote it; move or rename it, and run the command again"
                outcomes[case.name] = Outcome(unit.key, "failed", message=fault)
    for failure in run.failures:
        if failure.trace:
            logger.debug("%s %s\n%s", PREDICT, failure.key, failure.trace)
    return outcomes


def _show(rows: Sequence[Row]) -> None:
    """Prints the cases: those that failed, those to look at, the others."""
    order = {"failed": 0}
    ranked = sorted(rows, key=lambda row: (order.get(row["state"], 1), not row["suspect"]))
    for row in ranked[:_SHOWN]:
        if row["state"] != "done":
            typer.echo(f"{row['case']}  {row['state']}  {row['message']}")
            continue
        look = f"  LOOK: {row['suspect']}" if row["suspect"] else ""
        volume = plain_number(float(row["volume_ml"]))
        kept = f"  ({row['message']})" if row["message"] else ""
        typer.echo(f"{row['case']}  {row['structure']} {volume} ml{_dice_shown(row)}{look}{kept}")
    if len(rows) > _SHOWN:
        typer.echo(f"and {len(rows) - _SHOWN} more lines in {PREDICTION_TABLE}")


def _dice_shown(row: Row) -> str:
    if not row["dice"]:
        return ""
    error = float(row["dice_error"]) if row["dice_error"] else None
    estimate = DiceEstimate(float(row["dice"]), error, 0, row["dice_basis"])
    return f"  {estimate.words(suspect=bool(row['suspect']))}"
