"""`predictions.csv`: a row for each case and structure, including failed cases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from data.names import printable
from pipeline.deployment.case_files import CaseFiles
from pipeline.evaluation.dice_fit import DiceEstimate
from pipeline.execution.unit import MARKER, Outcome
from pipeline.storage.atomic import write_text
from pipeline.storage.owned_folder import changed_files, read_manifest
from pipeline.storage.spreadsheet_cell import escaped

COLUMNS = (
    "case", "state", "structure", "label", "volume_ml", "volume_low_ml", "volume_high_ml", "dice",
    "dice_error", "dice_basis", "entropy", "mutual_information", "suspect", "mask", "message",
)  # fmt: skip
Row = dict[str, str]
_KEPT = "changed since Graft wrote it, and kept: {}; the numbers are those of Graft's own mask"


def prediction_rows(folder: Path, outcomes: Sequence[tuple[str, CaseFiles | None, Outcome]]) -> list[Row]:
    """Collects the rows.

    Args:
        folder: of the prediction.
        outcomes: name, files and outcome of each case; without files for a case that was not tried.
    """
    rows = []
    for name, files, outcome in outcomes:
        if outcome.state not in ("done", "reused") or files is None:
            rows.append(_row(case=name, state=outcome.state, message=outcome.message))
            continue
        facts = json.loads((folder / files.key / files.facts).read_text(encoding="utf-8"))
        changed = changed_files(folder / files.key, MARKER)
        for structure, own in facts["structures"].items():
            low, high = own["volume_90_percent_ml"] or (None, None)
            estimate = DiceEstimate(**own["dice"]) if own["dice"] else None
            basis = estimate.basis if estimate else ""
            rows.append(
                _row(
                    case=name,
                    state="done",
                    structure=structure,
                    label=own["label"],
                    volume_ml=own["volume_ml"],
                    volume_low_ml=low,
                    volume_high_ml=high,
                    dice=estimate.dice if estimate else None,
                    dice_error=estimate.error if estimate else None,
                    dice_basis=f"NOT for a suspect case: {basis}" if basis and facts["suspect"] else basis,
                    # Masks that an earlier version predicted lack these.
                    entropy=own.get("entropy"),
                    mutual_information=own.get("mutual_information"),
                    suspect="; ".join(facts["suspect"]),
                    mask=f"{files.key}/{files.mask}",
                    message=_KEPT.format(", ".join(changed)) if changed else "",
                )
            )
    return rows


def earlier_rows(folder: Path, table: Path, cases: Collection[str]) -> list[Row]:
    """Collects the rows of cases that earlier commands predicted in the folder.

    Args:
        folder: of the prediction.
        table: as the last command left it; only it lists failed cases.
        cases: of this command, which are left out.
    """
    rows = [row for row in _finished_rows(folder) if row["case"] not in cases]
    known = {row["case"] for row in rows} | set(cases)
    return rows + [row for row in _read(table) if row["state"] == "failed" and row["case"] not in known]


def _finished_rows(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.rglob(MARKER)):
        for name in (read_manifest(path) or {}).get("files", ()):
            # A case may hold further JSON files, and somebody may have changed them.
            if not name.endswith(".json"):
                continue
            with suppress(OSError, ValueError, KeyError, TypeError):
                case = str(json.loads((path.parent / name).read_text(encoding="utf-8"))["case"])
                files = CaseFiles.of_facts(path.parent.relative_to(folder).as_posix(), name)
                yield from prediction_rows(folder, [(case, files, Outcome(case, "done"))])


def _read(table: Path) -> list[Row]:
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as stream:
        return [{column: row.get(column) or "" for column in COLUMNS} for row in csv.DictReader(stream)]


def _row(**values: object) -> Row:
    def shown(value: object) -> str:
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else printable(str(value))

    return {column: shown(values.get(column)) for column in COLUMNS}


def write_predictions(path: Path, rows: Sequence[Row]) -> None:
    """Writes the table, atomically."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: escaped(cell) for column, cell in row.items()} for row in rows)
    write_text(path, stream.getvalue())
