"""What the study of a model found about its arm: data, methods and numbers with intervals, for the model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkspaceError
from pipeline.deployment.model_description import ModelDescription
from pipeline.evaluation.tables import SummaryRow
from pipeline.report.methods_data import data_sentences, preprocessing_sentences, roles
from pipeline.report.study_files import StudyFiles

_CONFIG = "config.resolved.yaml"
_UNIT_DEPTH = 4
"""Folders between a workspace and a model in it: `infer/ARM/nNN/repeat-R/model`."""


class OtherStudyError(WorkspaceError):
    """A workspace is of another study than the model."""


@dataclass(frozen=True)
class StudyEvidence:
    """What the study found.

    Attributes:
        data: sentences on source and target.
        preprocessing: sentences on the chains.
        patients: role (`source`, `pool`, `test`) → number of patients.
        scores: rows of the summary of this arm at this number of patients; empty where it was not evaluated.
        repeats: trainings that the rows average over.
    """

    data: tuple[str, ...]
    preprocessing: tuple[str, ...]
    patients: dict[str, int]
    scores: tuple[SummaryRow, ...]
    repeats: int


def find_evidence(model: Path, about: ModelDescription, given: Path | None) -> StudyEvidence | None:
    """Reads what the study that the user named, or the one that the model lies in, found about its arm.

    Args:
        model: folder of the model.
        about: the model.
        given: the workspace that the user named.

    Returns:
        `None` where the user named no workspace and the model does not lie in that of its study.

    Raises:
        WorkspaceError: the folder that the user named is no workspace or of another study, or a file is damaged.
    """
    if given is not None:
        if not (given / _CONFIG).is_file():
            raise WorkspaceError(
                f"{given}: holds no {_CONFIG}",
                expected="the workspace of the model's study",
                fix="name it with --study",
            )
        return read_evidence(given, about)
    parents = model.resolve().parents
    if len(parents) <= _UNIT_DEPTH or not (parents[_UNIT_DEPTH] / _CONFIG).is_file():
        return None
    try:
        return read_evidence(parents[_UNIT_DEPTH], about)
    except OtherStudyError:
        # A copy that happens to lie in another study's workspace.
        return None


def read_evidence(workspace: Path, about: ModelDescription) -> StudyEvidence:
    """Reads what a study found about the arm of a model.

    Raises:
        OtherStudyError: the workspace is of another study.
        WorkspaceError: a file in it is damaged.
    """
    files = StudyFiles(workspace)
    name = files.config.get("name")
    if name != about.study:
        raise OtherStudyError(
            f"{workspace}: is of the study {name}",
            expected=f"the study of the model, {about.study}",
            fix="name its workspace with --study",
        )
    n = about.training_patients
    scores = tuple(row for row in files.summary if (row.arm, row.n) == (about.arm_name, n))
    rows = files.study.rows if files.study is not None else []
    repeats = {row.repeat for row in rows if (row.arm, row.n) == (about.arm_name, n)}
    return StudyEvidence(
        tuple(data_sentences(files)),
        tuple(preprocessing_sentences(files)),
        roles(files),
        scores,
        len(repeats),
    )
