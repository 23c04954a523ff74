"""How the metrics were measured: on which grid, with which policy for empty masks, and what it touched."""

from __future__ import annotations

from typing import Any

from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.empty_mask_counts import EmptyMaskCount
from pipeline.evaluation.measure_titles import metric_title
from pipeline.evaluation.options import EvaluationSpace
from pipeline.evaluation.study_results import EMPTY_MASKS
from pipeline.report.section import Material, Section
from pipeline.storage.file_names import RESULTS

TITLE = "Measures"
_SPACES = {
    EvaluationSpace.NATIVE: "in native space: probabilities were carried back to their scan, and the mask made "
    "there was compared with the label as it was drawn",
    EvaluationSpace.PREPROCESSED: "on the preprocessed grid, against the label as preprocessing left it",
}


def measures_section(material: Material) -> Section:
    """Builds the section from `results/empty_masks.csv` and the configuration."""
    path = material.files.root / RESULTS / EMPTY_MASKS
    if not path.is_file():
        text = f"results/{EMPTY_MASKS} is missing: the evaluate stage writes it."
        return Section("measures", TITLE, missing=(text,))
    content: dict[str, Any] = {"lines": [_line(count) for count in read_rows(path, EmptyMaskCount)]}
    if material.files.config is not None:
        options = material.files.config.evaluation
        content |= {"space": _SPACES[options.space], "tolerance": options.surface_tolerance, "lesions": options.lesions}
    return Section("measures", TITLE, content)


def _line(count: EmptyMaskCount) -> dict[str, Any]:
    return {
        "metric": metric_title(count.metric),
        "policy": count.policy,
        "counts": (count.both_empty, count.reference_empty, count.prediction_empty, count.left_out),
        "measured": count.measured,
    }
