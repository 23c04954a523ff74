"""A section of the report: a template and what goes into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.comparison import NON_BAYESIAN_ARMS
from pipeline.evaluation.metrics import LESS_IS_BETTER as LESS_IS_BETTER
from pipeline.report.case_readings import CaseReadings
from pipeline.report.options import ReportOptions
from pipeline.report.picture import PictureFolder
from pipeline.report.study_files import StudyFiles, nested


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

    def rivals(self) -> tuple[str, ...]:
        """Names of the arms that count as non-Bayesian: as chosen, else by the arms' choices in the configuration."""
        if self.options.rivals is not None:
            return self.options.rivals
        arms = nested(self.files.config, "inference", "arms")
        if not isinstance(arms, dict) or not all(isinstance(a, dict) and "prior" in a for a in arms.values()):
            return NON_BAYESIAN_ARMS
        return tuple(arm for arm, choices in arms.items() if _is_conventional(choices))


def _is_conventional(choices: dict[str, Any]) -> bool:
    """Whether an arm is a point estimate without a filter prior."""
    posterior = choices.get("posterior") or "point"
    kind = posterior.get("kind") if isinstance(posterior, dict) else posterior
    return kind == "point" and choices["prior"] in {"none", "l2", "l2_sp"} and choices.get("init") != "prior"


METRIC_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95 (mm)",
    "average_surface_distance": "Average surface distance (mm)",
    "surface_dice": "Surface Dice",
    "relative_volume_error": "Relative volume error",
    "lesion_sensitivity": "Lesion-wise sensitivity",
    "lesion_precision": "Lesion-wise precision",
    "lesion_f1": "Lesion-wise F1",
    "dice_worst_tenth": "Dice, worst tenth of patients",
}
"""Metric → how it is printed."""


def listing(names: Sequence[str]) -> str:
    """Joins words as prose does: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
