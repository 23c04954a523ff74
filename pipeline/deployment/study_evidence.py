"""What the study of a model found about its arm: data, methods and numbers with intervals, for the model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkspaceError
from pipeline.deployment.model_description import ModelDescription
from pipeline.evaluation.evaluated_models import read_evaluated
from pipeline.evaluation.tables import SummaryRow
from pipeline.report.methods_section import MethodsFacts, methods_text
from pipeline.report.source_use import SourceUse
from pipeline.report.study_files import StudyFiles
from pipeline.storage.file_names import CONFIG, RESULTS

_UNIT_DEPTH = 4
"""Folders between a workspace and a model in it: `infer/ARM/nNN/repeat-R/model`."""

OF_ANOTHER = (
    "the study's tables are not of this model, but of another training of the arm or of none (`graft evaluate` of the "
    "study measures the models that it has now)"
)


class OtherStudyError(WorkspaceError):
    """A workspace is of another study than the model."""


@dataclass(frozen=True)
class StudyEvidence:
    """What the study found.

    Attributes:
        data: on source and target; empty where the study's configuration is not known.
        preprocessing: on the chains; empty where the workspace's configuration, which a later command may have changed,
            has another one than the model.
        patients: role (`source`, `pool`, `test`) → number of patients.
        scores: rows of the summary of this arm at this number of patients; empty where the tables are not of this
            very model.
        repeats: trainings that the rows average over.
        evaluated: whether the tables are of this very model.
        cross_validation: how the patients were tested, in words; `None` where they were others than those of the arm.
    """

    data: str
    preprocessing: str
    patients: dict[str, int]
    scores: tuple[SummaryRow, ...]
    repeats: int
    evaluated: bool
    cross_validation: str | None = None


def find_evidence(model: Path, about: ModelDescription, digest: str, given: Path | None) -> StudyEvidence | None:
    """Reads what the study that the user named, or the one that the model lies in, found about its arm.

    Args:
        model: folder of the model.
        about: the model.
        digest: SHA-256 of the model's checksums.
        given: the workspace that the user named.

    Returns:
        `None` where the user named no workspace and the model does not lie in that of its study.

    Raises:
        WorkspaceError: the folder that the user named is no workspace or of another study, or a file is damaged.
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
        # A copy that happens to lie in another study's workspace.
        return None


def read_evidence(workspace: Path, about: ModelDescription, digest: str) -> StudyEvidence:
    """Reads what a study found about the arm of a model.

    Numbers are taken only from tables that are of this very model: another training of the same name, from before an
    option was changed, has other numbers.

    Raises:
        OtherStudyError: the workspace is of another study.
        WorkspaceError: a file in it is damaged.
    """
    files = StudyFiles(workspace)
    config = files.config
    # Without a configuration of this version, the digest of the model alone tells whether the numbers are its own.
    if config is not None and config.name != about.study:
        raise OtherStudyError(
            f"{workspace}: is of the study {config.name}",
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
        evaluated,
        files.cross_validation,
    )
