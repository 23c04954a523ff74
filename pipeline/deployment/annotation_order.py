"""`annotate_next.csv`: which scans without annotation to annotate next.

An annotation teaches most where the posterior disagrees about the answer: where the mutual information of prediction
and weights is high (BALD, Houlsby et al. 2011, arXiv 1112.5745; for segmentation with few annotations, Nath et al.
2021, IEEE Trans. Med. Imaging 40, 2534–2547). A high entropy that all draws share is noise that no annotation takes
away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.deployment.prediction_table import Row
from pipeline.evaluation.csv_rows import write_rows

ANNOTATE_NEXT = "annotate_next.csv"
_INFORMATION, _ENTROPY = "mutual_information", "entropy"


@dataclass(frozen=True)
class ScanToAnnotate:
    """A row of `annotate_next.csv`.

    Attributes:
        rank: 1 is the scan to annotate first.
        case: name of the scan.
        uncertainty: in nats near the boundary of the predicted structures, the mean over them; NaN where there is none.
        measure: what the uncertainty is: `mutual_information`, or `entropy` for a model with a single draw.
        not_found: structures that were not found; such scans come first.
        suspect: why the scan may be unlike the training cases: look at it before you annotate it.
    """

    rank: int
    case: str
    uncertainty: float
    measure: str
    not_found: str
    suspect: str


def annotation_order(rows: Iterable[Row]) -> list[ScanToAnnotate]:
    """Orders predicted scans, the most informative first.

    Args:
        rows: of `predictions.csv`; scans that could not be predicted are left out.

    Returns:
        One row for each scan. All are ranked by the mutual information, or all by the entropy if a scan has none.
    """
    scans: dict[str, list[Row]] = {}
    for row in rows:
        if row["state"] == "done":
            scans.setdefault(row["case"], []).append(row)
    found = [row for of_scan in scans.values() for row in of_scan if row[_ENTROPY]]
    measure = _INFORMATION if all(row[_INFORMATION] for row in found) else _ENTROPY
    unranked = [_scan(case, of_scan, measure) for case, of_scan in scans.items()]
    # Where a structure was not found, no boundary says how doubtful that is.
    ranked = sorted(unranked, key=lambda scan: (not scan.not_found, -np.nan_to_num(scan.uncertainty), scan.case))
    return [replace(scan, rank=rank) for rank, scan in enumerate(ranked, start=1)]


def _scan(case: str, rows: Sequence[Row], measure: str) -> ScanToAnnotate:
    values = [float(row[measure]) for row in rows if row[measure]]
    missing = [row["structure"] for row in rows if not row[measure]]
    mean = sum(values) / len(values) if values else math.nan
    return ScanToAnnotate(0, case, mean, measure, "; ".join(missing), rows[0]["suspect"])


def write_annotation_order(path: Path, rows: Iterable[Row]) -> None:
    """Writes the table."""
    write_rows(path, ScanToAnnotate, annotation_order(rows))
