"""What a finished study says of a model in three sentences: its quality, the gain of the transfer, the worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.arms.presets import REFERENCE_ARM
from pipeline.evaluation.csv_rows import rows_if_there
from pipeline.evaluation.label_audit import LABEL_AUDIT, AuditRow, worst_of_each_case
from pipeline.evaluation.statistics import Interval, paired_difference, why_no_interval
from pipeline.evaluation.tables import StudyRows
from pipeline.report.number_text import interval_text, listing, number, signed
from pipeline.report.study_files import StudyFiles
from pipeline.storage.file_names import RESULTS

_SHOWN = 3
"""Cases that are named."""


def findings(workspace: Path, arm: str) -> list[str]:
    """Returns three sentences on an arm of a finished study.

    Args:
        workspace: of the study.
        arm: its name.

    Raises:
        WorkspaceError: a table is damaged.
    """
    files = StudyFiles(workspace)
    if files.study is None:
        return [
            "No estimate: nobody was tested, so nothing says how good the model is; annotate and add more patients."
        ]
    settings = files.table_settings
    study = StudyRows(files.study.rows, settings.folds)
    n = max(row.n for row in study.rows if row.arm == arm)
    return [
        _quality(files, arm, n),
        _gain(files, study, arm, n),
        _cases(rows_if_there(workspace / RESULTS / LABEL_AUDIT, AuditRow)),
    ]


def _quality(files: StudyFiles, arm: str, n: int) -> str:
    [row] = [row for row in files.summary if (row.arm, row.n, row.metric) == (arm, n, "dice")]
    of = f"{row.patients} patient{'s' * (row.patients != 1)}"
    how = (
        f"Cross-validated Dice of {arm} on your {of}" if files.cross_validation else f"Dice of {arm} on {of} set aside"
    )
    reason = row.no_interval
    ends = f" (no interval: {reason})" if reason else f" {interval_text(Interval(row.mean, row.ci_low, row.ci_high))}"
    return f"{how}: {number(row.mean)}{ends}."


def _gain(files: StudyFiles, study: StudyRows, arm: str, n: int) -> str:
    settings, table = files.table_settings, study.table("dice", n)
    if arm == REFERENCE_ARM:
        return "Gain of the transfer over training from scratch: none was tried, the model learned from scratch."
    if REFERENCE_ARM not in table.arms:
        return (
            f"Gain of the transfer over training from scratch: unknown, because {REFERENCE_ARM} is not among the arms."
        )
    # The tables compare with the best rival and with the leading arm, which need not be this pair.
    draws = study.draws(seed=settings.seed, resamples=settings.resamples)
    found = paired_difference(table.of(arm), table.of(REFERENCE_ARM), draws)
    reason = why_no_interval(found.patients)
    if reason is not None:
        # No difference is given either: it would be read as a finding.
        return f"Gain of the transfer over training from scratch: cannot be told, because {reason}."
    told = "" if found.interval.low > 0 or found.interval.high < 0 else ", which cannot be told from none"
    ends = interval_text(found.interval, with_sign=True)
    arms = files.arm_options()
    if arms[arm].fit_reading and not arms[REFERENCE_ARM].fit_reading:
        told += f"; {REFERENCE_ARM} fits no post-processing, which may be a part of it"
    return (
        f"Gain of the transfer over training from scratch, paired by patient: {signed(found.interval.mean)} "
        f"{ends}{told}."
    )


def _cases(audit: Sequence[AuditRow]) -> str:
    shown = worst_of_each_case(audit)[:_SHOWN]
    named = listing([f"{row.case} (Dice {number(row.dice)}{', stands out' * (row.stands_out == 1)})" for row in shown])
    return (
        f"Look first at the annotation of {named}: models that had not seen the case find it the most surprising. "
        "The report has pictures."
    )
