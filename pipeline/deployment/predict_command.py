"""`graft predict`: masks, uncertainty and numbers of new scans on their own grids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from data.case import Case
from data.errors import ConfigError, WorkspaceError
from data.plain_number import plain_number
from models.networks.imported_network import network_code_allowed
from pipeline.deployment.annotation_order import ANNOTATE_NEXT, write_annotation_order
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
from pipeline.execution.unit import MARKER, Outcome, Unit
from pipeline.execution.units import Execution, StageRun, run_units
from pipeline.storage.atomic import remove_temporaries, temporary_room, write_json
from pipeline.storage.file_names import PREDICTION, PREDICTION_TABLE
from pipeline.storage.owned_folder import (
    Changed,
    changed_files,
    contents,
    listed_files,
    read_manifest,
    require_unchanged,
    require_writable,
    set_aside,
    settle,
)
from pipeline.storage.workspace import Workspace

logger = logging.getLogger(__name__)

PREDICT = "predict"
_SHOWN = 40


def predict(
    model: Path,
    inputs: Sequence[Path],
    output: Path,
    options: PredictOptions,
    *,
    jobs: int | None = None,
    device: str = "auto",
    resume: bool = True,
    allow_network_code: bool = False,
    unannotated: bool = False,
) -> list[Row]:
    """Predicts scans; finished ones are kept, and a bad one does not stop the others.

    Args:
        model: folder of the model.
        inputs: files, folders and datasets.
        output: folder of the results.
        options: of the prediction.
        jobs: cases at a time.
        device: `auto`, `cpu` or `cuda`.
        resume: keep finished cases.
        allow_network_code: whether a network that is code outside Graft may be run.
        unannotated: leave out the cases of datasets that have a label, and write which of the others to annotate next.

    Returns:
        The rows of these scans in `predictions.csv`.

    Raises:
        GraftError: the model or an input as a whole is not usable.
        StageError: cases failed; the others are done.
    """
    with network_code_allowed(allow_network_code):
        description, digest = read_description(model)
    require_network_code(description.network)
    cases = _collected(inputs, description.channels, unannotated)
    _refuse_foreign(output)
    require_writable(output)
    workspace = Workspace(output)
    about = _about(options, description, digest)
    with workspace.lock():
        # Killed commands leave unfinished cases in the output folder itself.
        remove_temporaries(output)
        earlier = listed_files(output, PREDICTION)
        tables = [PREDICTION_TABLE, *([ANNOTATE_NEXT] if unannotated or ANNOTATE_NEXT in earlier else [])]
        require_unchanged(output, PREDICTION, tables)
        roots = list(dict.fromkeys(case.bids for case in cases if case.bids is not None))
        links = dataset_links(output, roots)
        known = read_manifest(output / PREDICTION) or {"files": {}, "sha256": {}}
        write_json(output / PREDICTION, known | about)
        common = {
            "model": find_model(model).resolve(),
            "digest": digest,
            "options": options,
            "device": chosen_device(device),
            "allow_code": allow_network_code,
        }
        names = link_names(output, roots, links)
        files = {case.name: CaseFiles.of(case, names) for case in cases if case.case is not None}
        units = _units(cases, files, common, workspace, resume)
        # One case at a time by default: scans are large.
        run = run_units(PREDICT, list(units.values()), workspace, Execution.sharing_cores(jobs, len(cases)))
        outcomes = _outcomes(output, cases, units, run)
        rows = prediction_rows(output, [(c.name, files.get(c.name), outcomes[c.name]) for c in cases])
        everything = [*rows, *earlier_rows(output, output / PREDICTION_TABLE, outcomes)]
        with _output_files(output, about, tables) as room:
            _write_tables(room, tables, everything)
            if roots or DESCRIPTION in earlier:
                write_derivative_files(room, description, digest, links, output)
    _show(rows)
    complete(PREDICT, StageRun(tuple(outcomes.values()), run.wall_seconds))
    return rows


@contextmanager
def _output_files(output: Path, about: dict[str, Any], tables: Sequence[str]) -> Iterator[Path]:
    """Yields a temporary folder for files that belong to the output folder and not to a case."""
    with temporary_room(output) as room:
        yield room
        write_json(room / PREDICTION, contents(room, PREDICTION) | about)
        require_unchanged(output, PREDICTION, tables)
        settle(room, output, PREDICTION, Changed.KEEP)


def _write_tables(room: Path, tables: Sequence[str], rows: Sequence[Row]) -> None:
    """Writes the table of all scans and, where it is wanted, which of them to annotate next."""
    if ANNOTATE_NEXT in tables:
        write_annotation_order(room / ANNOTATE_NEXT, rows)
    write_predictions(room / PREDICTION_TABLE, sorted(rows, key=lambda row: row["case"]))


def _collected(inputs: Sequence[Path], channels: Sequence[str], unannotated: bool) -> list[InputCase]:
    """The scans to predict.

    Raises:
        ConfigError: there are none.
        DataError: results of two would have one name.
    """
    cases = collect_cases(inputs, channels, unannotated=unannotated)
    if not cases and unannotated:
        raise ConfigError(
            "every case of the inputs has a label", expected="scans without one", fix="leave out --unannotated"
        )
    if not cases:
        raise ConfigError("there is no scan to predict", expected="files, folders or datasets", fix="name some")
    require_apart(CaseFiles.of(case) for case in cases if case.case is not None)
    return cases


def _units(
    cases: Sequence[InputCase],
    files: Mapping[str, CaseFiles],
    common: Mapping[str, Any],
    workspace: Workspace,
    resume: bool,
) -> dict[str, Unit]:
    """Case → unit, for those that can be tried; without `resume`, finished ones are set aside."""
    found = {case.name: case.case for case in cases if case.case is not None}
    units = {name: _unit(case, files[name], common, workspace) for name, case in found.items()}
    workspace.file_digests.save()
    if not resume:
        for unit in units.values():
            set_aside(workspace.unit_folder(unit.stage, unit.key), MARKER)
    return units


def _refuse_foreign(output: Path) -> None:
    """Refuses a folder of other files, such as a BIDS dataset.

    Raises:
        WorkspaceError: the folder holds files but no predictions.
    """
    if output.is_dir() and not (output / PREDICTION).is_file() and any(p.name[0] != "." for p in output.iterdir()):
        raise WorkspaceError(
            f"{output}: holds files that are not predictions of Graft",
            expected="a new or empty folder, or one that `graft predict` wrote",
            fix="name another with --output",
        )


def _about(options: PredictOptions, model: ModelDescription, digest: str) -> dict[str, Any]:
    return {
        "graft_version": graft_version(),
        "model": {"study": model.study, "arm": model.arm_name, "sha256": digest},
        "options": options.model_dump(mode="json"),
    }


def _unit(case: Case, files: CaseFiles, common: Mapping[str, Any], workspace: Workspace) -> Unit:
    recipe = {
        "model": common["digest"],
        "files": workspace.file_digests.of_files(case.files()),
        "frames": [source.frame for source in case.channels.values()],
        "options": common["options"].model_dump(mode="json"),
        "version": 3,
    } | ({"sources": list(files.sources)} if files.bids else {})
    # The stage has no folder of its own: the cases lie in the output folder.
    arguments = {"case": case, "files": files, **common}
    return Unit("", files.key, recipe, predict_input, arguments, changed=Changed.REFUSE)


def _outcomes(folder: Path, cases: Sequence[InputCase], units: dict[str, Unit], run: StageRun) -> dict[str, Outcome]:
    """Case → outcome, including cases that could not be tried."""
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
    """Prints the cases: first those that failed, then those to review, then the others."""
    ranked = sorted(rows, key=lambda row: (row["state"] != "failed", not row["suspect"]))
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
