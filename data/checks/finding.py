"""The result of a check: a level, a case, what was found and how to fix it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters."""

    INFO = "info"
    """Worth knowing; nothing to do."""
    WARNING = "warning"
    """Probably a mistake; the pipeline copes."""
    ERROR = "error"
    """The case or the dataset cannot be used as it is."""

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Level).index(self)


@dataclass(frozen=True)
class Finding:
    """One result of one check.

    Attributes:
        level: how much it matters.
        case: name of the case; `None` for the dataset as a whole.
        check: name of the check, e.g. `label_grid`.
        found: what was found, with numbers and the channel or file.
        fix: what to do about it.
        trace: traceback, if the check itself failed; logged with `--debug` only and never stored.
    """

    level: Level
    case: str | None
    check: str
    found: str
    fix: str
    trace: str = field(default="", compare=False, repr=False)

    def as_json(self) -> dict[str, str | None]:
        """Returns the fields as plain text."""
        content = {**asdict(self), "level": self.level.value}
        del content["trace"]
        return content


def as_error(finding: Finding, checks: Collection[str]) -> Finding:
    """Returns a finding of one of the checks as an error of a scan that can be left out, and any other as it is."""
    if finding.check not in checks:
        return finding
    return replace(finding, level=Level.ERROR, fix=f"{finding.fix}, or leave the scan out")
