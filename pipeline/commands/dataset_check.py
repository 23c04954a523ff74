"""`graft check DATASET`: the findings of all checks on a folder, as a table or as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.checks.battery import check_dataset
from data.checks.finding import Finding, Level
from data.checks.report import Presence, Report
from data.layouts.detection import read_dataset
from data.names import printable

_MARKS = {
    Presence.PRESENT: "yes",
    Presence.ABSENT: "–",
    Presence.MISSING: "MISSING",
    Presence.UNREADABLE: "UNREADABLE",
}
_COLOURS = {Level.ERROR: "red", Level.WARNING: "yellow", Level.INFO: "blue"}
_SHOWN_OF_A_CHECK = 5
_SHOWN_CASES = 30


def check_folder(path: Path, *, as_json: bool, strict: bool, jobs: int | None) -> int:
    """Checks a dataset and shows the findings.

    Returns:
        0; 1 for warnings under `strict`; 2 for errors.

    Raises:
        DataError: the folder is missing or has no known layout.
    """
    report = check_dataset(read_dataset(path), jobs=jobs or os.cpu_count() or 1)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1))
    else:
        _show(report)
    return report.exit_code(strict)


def _show(report: Report) -> None:
    console = Console(highlight=False, soft_wrap=True)
    grouped = "" if report.has_patients else " (no patients.csv: each case counts as a patient)"
    console.print(
        f"{escape(printable(str(report.root)))}: layout {report.layout}, "
        f"{len(report.table)} cases of {report.patients} patients{grouped}"
    )
    _show_table(console, report)
    _show_findings(console, report.findings)
    counts = {level: len(report.of_level(level)) for level in Level}
    console.print(", ".join(f"{count} {level.value}" for level, count in counts.items()))


def _show_table(console: Console, report: Report) -> None:
    """Shows what most cases have, and lists the cases that differ from them."""
    rows = {case: tuple(row.values()) for case, row in report.table.items()}
    if not rows:
        return
    columns = list(next(iter(report.table.values())))
    usual, count = Counter(rows.values()).most_common(1)[0]
    there = [name for name, what in zip(columns, usual, strict=True) if what is Presence.PRESENT]
    console.print(f"{count} of {len(rows)} cases have: {escape(', '.join(there)) or 'no readable file'}")
    others = {case: row for case, row in rows.items() if row != usual}
    if not others:
        return
    table = Table("case", *map(escape, columns))
    for case, row in list(others.items())[:_SHOWN_CASES]:
        table.add_row(escape(case), *(_MARKS[what] for what in row))
    console.print(table)
    if len(others) > _SHOWN_CASES:
        console.print(f"and {len(others) - _SHOWN_CASES} more (see them all with --json)")


def _show_findings(console: Console, findings: Iterable[Finding]) -> None:
    kinds: dict[tuple[Level, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.level, finding.check), []).append(finding)
    for (level, check), alike in kinds.items():
        mark = f"[{_COLOURS[level]}]{level.value}[/{_COLOURS[level]}] {check}:"
        for finding in alike[:_SHOWN_OF_A_CHECK]:
            where = f"{finding.case}: " if finding.case else ""
            console.print(f"{mark} {escape(printable(f'{where}{finding.found}; {finding.fix}'))}")
        if len(alike) > _SHOWN_OF_A_CHECK:
            console.print(f"{mark} {len(alike) - _SHOWN_OF_A_CHECK} more (see them all with --json)")
