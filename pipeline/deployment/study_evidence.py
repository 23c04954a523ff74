"""Results of a model's study for the model card: data, methods, and numbers with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkspaceError
from pipeline.config.study import StudyConfig
from pipeline.deployment.model_description import ModelDescription
from pipeline.evaluation.evaluated_models import read_evaluated
from pipeline.evaluation.tables import SummaryRow
from pipeline.report.methods_section import MethodsFacts, methods_text
from pipeline.report.source_use import SourceUse
from pipeline.report.study_files import StudyFiles
from pipeline.storage.file_names import CONFIG, RESULTS

_UNIT_DEPTH = 4
"""Folders between a workspace and a model in it: `infer/ARM/nNN/repeat-R/model`."""

_UNTESTED = "the study tested nobody"
_NOT_THERE = "no results of this arm for this number of patients were available"
_OF_ANOTHER = (
    "the study's tables are not of this model: its arm was trained again, or not evaluated since (`graft evaluate` "
    "measures the current models)"
)


class OtherStudyError(WorkspaceError):
    """A workspace belongs to a different study than the model."""


@dataclass(frozen=True)
class StudyEvidence:
    """Results of a study.

    Attributes:
        data: on source and target; empty where the study's configuration is not known.
        preprocessing: on the chains; empty where the workspace's configuration, which a later command may have changed,
            has another one than the model.
        patients: role (`source`, `pool`, `test`) → number of patients.
        scores: rows of the summary of this arm at this number of patients; empty if the tables are not of this exact
            model.
        repeats: trainings that the rows average over.
        no_numbers: why there are no scores, where there are none.
        cross_validation: how the patients were tested, in words; `None` if they were separate test patients.
    """

    data: str
    preprocessing: str
    patients: dict[str, int]
    scores: tuple[SummaryRow, ...]
    repeats: int
    no_numbers: str | None
    cross_validation: str | None = None


def _why_no_numbers(config: StudyConfig | None, evaluated: bool) -> str:
    if config is not None and not config.target.tested:
        return _UNTESTED
    return _NOT_THERE if evaluated else _OF_ANOTHER


def find_evidence(model: Path, about: ModelDescription, digest: str, given: Path | None) -> StudyEvidence | None:
    """Reads the results of the model's study from the `given` workspace, or from the one that the model lies in.

    Returns:
        `None` if the user named no workspace and the model does not lie in that of its study.

    Raises:
        WorkspaceError: the named folder is not a workspace or belongs to another study, or a file is damaged.
    """
    if given is not None:
        if not (given / CONFIG).is_file():
            raise WorkspaceError(
                f"{given}: holds no {CONFIG}",
                expected="the workspace of the model's study",
                fix="name it with --study",
            )
        return read_evidence(given, about, digest)
    parents = model.resolve().parents
    if len(parents) <= _UNIT_DEPTH or not (parents[_UNIT_DEPTH] / CONFIG).is_file():
        return None
    try:
        return read_evidence(parents[_UNIT_DEPTH], about, digest)
    except OtherStudyError:
        # A copy of the model in another study's workspace.
        return None


def read_evidence(workspace: Path, about: ModelDescription, digest: str) -> StudyEvidence:
    """Reads the results of a model's arm.

    Numbers are taken only from tables of this exact model: a training of the same name with other options has other
    numbers.

    Raises:
        OtherStudyError: the workspace is of another study.
        WorkspaceError: a file in it is damaged.
    """
    files = StudyFiles(workspace)
    config = files.config
    # Without a configuration of this version, the digest of the model alone tells whether the numbers are its own.
    if config is not None and config.name != about.study:
        raise OtherStudyError(
            f"{workspace}: belongs to the study {config.name}",
            expected=f"the study of the model, {about.study}",
            fix="name its workspace with --study",
        )
    n = about.training_patients
    tables = read_evaluated(workspace / RESULTS)
    evaluated = tables is not None and tables.holds(digest)
    of_arm = (about.arm_name, n)
    scores = tuple(row for row in files.summary if (row.arm, row.n) == of_arm) if evaluated else ()
    rows = files.study.rows if files.study is not None and evaluated else []
    repeats = {row.repeat for row in rows if (row.arm, row.n) == of_arm}
    facts = MethodsFacts(files, config, SourceUse.of([about.arm])) if config else None
    same_chain = config is not None and config.datasets[config.target.dataset].preprocessing == about.preprocessing
    return StudyEvidence(
        methods_text(facts, "data") if facts else "",
        methods_text(facts, "preprocessing") if facts and same_chain else "",
        files.patients,
        scores,
        len(repeats),
        None if scores else _why_no_numbers(config, evaluated),
        files.cross_validation,
    )
