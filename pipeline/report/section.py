"""A section of the report: a template and what goes into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.config.report_options import ReportOptions
from pipeline.report.case_readings import CaseReadings
from pipeline.report.picture import PictureFolder
from pipeline.report.study_files import StudyFiles


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        key: anchor in the page, and base name of its template.
        title: heading.
        content: variables of the template; empty where there is nothing to show.
        missing: what is missing and which stage makes it, one plain sentence each.
    """

    key: str
    title: str
    content: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """What every section is made from."""

    files: StudyFiles
    options: ReportOptions
    pictures: PictureFolder
    readings: CaseReadings = field(default_factory=CaseReadings)
