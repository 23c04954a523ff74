"""`graft adapt`: plans a study from annotated scans, runs it, and puts the model of its last arm where it belongs.

MODEL/              the model folder, as `graft predict` takes it: no scan, no name of a patient
MODEL-study/        the workspace of the study, with all that it made
  request.json      what was asked for
  study.yaml        the planned study
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

from data.errors import ConfigError, WorkspaceError
from data.stored_record import record_if_there
from pipeline.adaptation.findings import findings
from pipeline.adaptation.request_record import REQUEST, RequestRecord
from pipeline.config.reading import read_config
from pipeline.config.study import StudyConfig
from pipeline.deployment.model_folder import MODEL_FOLDER
from pipeline.planning.request import PlanRequest
from pipeline.planning.written_study import planned_study
from pipeline.report.number_text import counted
from pipeline.stages.cohorts import read_datasets
from pipeline.stages.resources import Resources
from pipeline.stages.sequence import run_stages
from pipeline.stages.study_plan import read_plan
from pipeline.stages.target_cells import target_cells
from pipeline.stages.target_plan import arm_key
from pipeline.storage.atomic import is_temporary, link_or_copy, write_record, write_text
from pipeline.storage.file_names import FILES, INDEX, PLANNED_STUDY
from pipeline.storage.lock import LOCK, OWNER
from pipeline.storage.owned_folder import owned_folder, require_ours, require_writable
from pipeline.storage.stage_names import Stage
from pipeline.storage.workspace import Workspace

_BESIDE = "-study"


def study_folder(output: Path) -> Path:
    """The workspace of a model folder's study, beside it.

    Raises:
        ConfigError: the model folder has no name of its own.
    """
    if output.name in ("", ".."):
        raise ConfigError(f"--output {output}: is no new folder", expected="a name for the model", fix="name one")
    return output.with_name(output.name + _BESIDE)


def adapt(
    request: PlanRequest, output: Path, overrides: Sequence[str], resources: Resources, tell: Callable[[str], None]
) -> None:
    """Plans the study unless it is planned, does what is left of it, and tells what came out.

    Args:
        request: what is asked for.
        output: the model folder.
        overrides: keys of the planned study that have another value.
        resources: of this machine.
        tell: gets lines for people.

    Raises:
        GraftError: the scans or the source cannot be used, another request was begun there, or a stage failed; what is
            done is kept.
    """
    folder = study_folder(output)
    config = _planned(request, output, folder, overrides, resources, tell)
    workspace = run_stages(list(Stage), config, resources)
    # The last arm is the default one, or the one that was named last.
    arm = list(config.target_training.arms)[-1]
    _deliver(_final_model(config, workspace, arm), output)
    for line in findings(workspace.root, arm):
        tell(line)
    tell(f"The report is {folder / Stage.REPORT / INDEX}")
    predict = f"graft predict {quote(str(output))}"
    if unannotated := _unannotated(config, workspace):
        segment = f"{predict} {quote(str(request.target))} --unannotated --output DIR"
        tell(f"Without annotation: {counted(unannotated, 'scan')}; `{segment}` says which to annotate next")
    tell(f"The model is {output}; segment new scans with `{predict} SCANS --output DIR`")


def _planned(
    request: PlanRequest,
    output: Path,
    folder: Path,
    overrides: Sequence[str],
    resources: Resources,
    tell: Callable[[str], None],
) -> StudyConfig:
    """The study as it was written: planning measures the speed of the machine, so it is done once."""
    require_ours(output, FILES)
    _require_begun_here(folder)
    require_writable(folder)
    path, now = folder / PLANNED_STUDY, RequestRecord.of(request, overrides)
    with Workspace(folder).lock():
        before = record_if_there(folder / REQUEST, RequestRecord, "name another --output")
        if before is not None and path.exists():
            before.require_same(now, path)
            tell(f"Continuing with the study that was planned: {path}")
        else:
            plan = planned_study(request, path, resources, folder, overrides)
            write_record(folder / REQUEST, now)
            write_text(path, plan.text)
            for line in (*plan.told, f"The study is {path}"):
                tell(line)
    return read_config(path, overrides, folder)


def _require_begun_here(folder: Path) -> None:
    """Refuses to work in a folder that is somebody else's; a command that was killed while it planned leaves its lock.

    Raises:
        WorkspaceError: there is a file, or a folder with anything else.
    """
    if not folder.exists() or (folder / REQUEST).is_file():
        return
    if not folder.is_dir() or any(
        path.name not in (LOCK, OWNER) and not is_temporary(path) for path in folder.iterdir()
    ):
        raise WorkspaceError(
            f"{folder}: exists already, and no `graft adapt` began it",
            expected="a new folder for the study, or one that the same command began",
            fix="name another --output, or move it away",
        )


def _final_model(config: StudyConfig, workspace: Workspace, arm: str) -> Path:
    """The model of an arm that learned from the most patients."""
    cells = [cell for cell in target_cells(read_plan(config, workspace), arm) if cell.final is not None]
    largest = max(cells, key=lambda cell: (cell.n, -cell.repeat))
    return workspace.unit_folder(Stage.INFER, arm_key(arm, largest.n, largest.repeat)) / MODEL_FOLDER


def _unannotated(config: StudyConfig, workspace: Workspace) -> int:
    """Cases of the target without a label."""
    return sum(case.label is None for case in read_datasets(config, workspace)[config.target.dataset].cases)


def _deliver(model: Path, output: Path) -> None:
    with owned_folder(output, FILES) as temporary:
        for file in sorted(model.iterdir()):
            link_or_copy(file, temporary / file.name)
