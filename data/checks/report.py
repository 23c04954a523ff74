"""The results of all checks of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from data.checks.finding import Finding, Level


class Presence(StrEnum):
    """Whether a channel, label or brain mask of a case is there."""

    PRESENT = "present"
    """The file was read."""
    ABSENT = "absent"
    """The layout names no file."""
    MISSING = "missing"
    """The layout names a file that does not exist."""
    UNREADABLE = "unreadable"
    """The file is there but cannot be read."""
    IN_MEMORY = "in memory"
    """The image was never a file; a dataset has none of these."""


@dataclass(frozen=True)
class Report:
    """The findings and the table of what was discovered.

    Attributes:
        root: the dataset's folder.
        layout: name of its layout.
        patients: number of patients.
        has_patients: whether the cases are grouped into patients.
        findings: worst first, then by check and case.
        table: case → channel (then `label` and `brain_mask`) → whether it is there.
        label_names: value → name.
    """

    root: Path
    layout: str
    patients: int
    has_patients: bool
    findings: tuple[Finding, ...]
    table: Mapping[str, Mapping[str, Presence]]
    label_names: Mapping[int, str]

    @property
    def worst_level(self) -> Level | None:
        """The worst level of all findings; `None` if there are none."""
        return max((finding.level for finding in self.findings), key=lambda level: level.rank, default=None)

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level is level)

    def exit_code(self, strict: bool = False) -> int:
        """0 if clean, 1 for warnings if they count (`strict`), 2 for errors."""
        if self.worst_level is Level.ERROR:
            return 2
        return int(strict and self.worst_level is Level.WARNING)

    def as_json(self) -> dict[str, Any]:
        """Returns the report as plain JSON values."""
        counts = Counter(finding.level.value for finding in self.findings)
        return {
            "root": str(self.root),
            "layout": self.layout,
            "cases": len(self.table),
            "patients": self.patients,
            "has_patients": self.has_patients,
            "label_names": {str(value): name for value, name in self.label_names.items()},
            "worst_level": self.worst_level.value if self.worst_level else None,
            "counts": {level.value: counts[level.value] for level in Level},
            "findings": [finding.as_json() for finding in self.findings],
            "table": {case: {name: what.value for name, what in row.items()} for case, row in self.table.items()},
        }


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Returns the findings worst first, then by check and case, so that any number of workers gives one order."""
    return tuple(sorted(findings, key=lambda f: (-f.level.rank, f.check, f.case or "", f.found)))
