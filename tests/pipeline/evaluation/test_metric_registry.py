"""What is known of a metric is known once, and everything that shows metrics takes it from there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.deployment.model_card import _score
from pipeline.evaluation.case_row import METRICS, CaseRow
from pipeline.evaluation.measure_titles import MEASURES, measure_of, metric_title
from pipeline.evaluation.options import EvaluationOptions, LesionOptions, MetricPolicies
from pipeline.evaluation.tables import SummaryRow
from pipeline.metrics.mask_pair import MaskPair
from pipeline.report.score_table import score_table

NONE, SOME, LESIONS = np.zeros((4, 4, 5), bool), np.ones((4, 4, 5), bool), LesionOptions()


def pair(prediction: np.ndarray, reference: np.ndarray) -> MaskPair:
    return MaskPair(prediction, reference, (1.0, 2.0, 3.0), lesion_options=LESIONS)


def test_every_metric_is_a_column_of_cases_and_has_a_policy_and_a_title() -> None:
    columns = {field.name for field in dataclasses.fields(CaseRow)}
    assert set(METRICS) <= columns
    assert list(METRICS) == list(MetricPolicies.model_fields) == list(EvaluationOptions().policies())
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_best_and_worst_lie_on_the_side_that_the_registry_says(name: str) -> None:
    metric = METRICS[name]
    best, same = metric.of(pair(NONE, NONE)), metric.of(pair(SOME, SOME))
    missed, invented = metric.of(pair(NONE, SOME)), metric.of(pair(SOME, NONE))
    assert best == same
    assert missed == invented
    assert (missed > best) == metric.less_is_better
    assert f"best {best:g}" in metric.empty


@pytest.mark.parametrize("name", MEASURES)
def test_report_and_card_print_the_same_title(name: str) -> None:
    row = SummaryRow("dwp", 5, name, 0.5, 0.4, 0.6, 8, 8)
    table = score_table([row], ["dwp"], name, {})
    assert table["title"] == _score(row)["metric"] == metric_title(name)
    cell = table["lines"][0]["cells"][0]
    assert len(cell["mean"].partition(".")[2]) == measure_of(name).digits


def test_a_label_stands_behind_the_title_and_an_unknown_name_for_itself() -> None:
    assert metric_title("hd95[spleen]") == "HD95 (mm), spleen"
    assert metric_title("of_tomorrow") == "of_tomorrow"
    assert measure_of("hd95[spleen]") is METRICS["hd95"]
