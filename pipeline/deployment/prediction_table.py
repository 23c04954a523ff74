"""`predictions.csv`: a line for each case and structure, failed cases included."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from data.names import printable
from pipeline.deployment.case_files import CaseFiles
from pipeline.deployment.dice_calibration import DiceEstimate
from pipeline.storage.atomic import write_text
from pipeline.storage.spreadsheet_cell import escaped
from pipeline.storage.units import Outcome

COLUMNS = (
    "case", "state", "structure", "label", "volume_ml", "volume_low_ml", "volume_high_ml", "dice",
    "dice_error", "dice_basis", "suspect", "mask", "message",
)  # fmt: skip
Row = dict[str, str]


def prediction_rows(folder: Path, outcomes: Sequence[tuple[str, CaseFiles | None, Outcome]]) -> list[Row]:
    """Collects the rows.

    Args:
        folder: of the prediction.
        outcomes: name, files and outcome of each case; no files for a case that was not tried.
    """
    rows = []
    for name, files, outcome in outcomes:
        if outcome.state not in ("done", "reused") or files is None:
            rows.append(_row(case=name, state=outcome.state, message=outcome.message))
            continue
        facts = json.loads((folder / files.key / files.facts).read_text(encoding="utf-8"))
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
                    suspect="; ".join(facts["suspect"]),
                    mask=f"{files.key}/{files.mask}",
                )
            )
    return rows


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
