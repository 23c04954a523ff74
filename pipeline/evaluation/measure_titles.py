"""Names of the numbers in `summary.csv` and `calibration_summary.csv`, as tables, figures and cards print them."""

from __future__ import annotations

from pipeline.evaluation.calibration_tables import SCORES
from pipeline.evaluation.case_row import METRICS
from pipeline.evaluation.tables import WORST_TENTH
from pipeline.metrics.measure import Measure

MEASURES: dict[str, Measure] = {**METRICS, **SCORES, WORST_TENTH: Measure(title="Dice, worst tenth of patients")}
"""Name → measure."""


def measure_of(metric: str) -> Measure:
    """Returns the measure of a row of a summary, e.g. that of `dice` for `dice[spleen]`.

    A name that is not known, such as a metric of a later version, is its own title.
    """
    name = metric.partition("[")[0]
    return MEASURES.get(name, Measure(title=name))


def metric_title(metric: str) -> str:
    """Prints a metric of a summary, e.g. `hd95[spleen]` as `HD95 (mm), spleen`."""
    _, _, label = metric.partition("[")
    return measure_of(metric).full_title + (f", {label.removesuffix(']')}" if label else "")
