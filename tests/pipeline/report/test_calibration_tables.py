"""The tables of the section on calibration."""

from __future__ import annotations

from pipeline.evaluation.calibration_tables import COVERAGE, CalibrationRow
from pipeline.evaluation.tables import SummaryRow
from pipeline.report.calibration_section import volume_table
from pipeline.report.score_table import score_table


def test_intervals_of_rivals_are_listed_with_their_correlation() -> None:
    arms = ("random", "fine_tune", "fine_tune+temperature")
    rows = [CalibrationRow(arm, 5, 0, "c", "p", "core", draws=1) for arm in arms]
    measured = {"voxel_correlation": 0.12, COVERAGE: 0.88, "volume_width_ml": 1.5, "volume_width_relative": 0.4}
    summary = [SummaryRow("random", 5, "ece", 0.1, 0.1, 0.1, 1), SummaryRow("fine_tune", 5, "ece", 0.1, 0.1, 0.1, 1)]
    summary += [SummaryRow(arms[2], 5, name, value, value, value, 1) for name, value in measured.items()]
    lines = {line["arm"]: line for line in volume_table(summary, rows, arms)}
    assert [lines[arm]["available"] for arm in arms] == [False, False, True]
    assert [lines[arm]["correlation"] for arm in arms] == ["–", "–", "0.12"]
    assert (lines[arms[2]]["coverage"], lines[arms[2]]["relative"]) == ("0.88", "40\N{NO-BREAK SPACE}%")


def test_an_arm_that_segments_next_to_nothing_is_not_the_best_calibrated_and_ties_share_the_badge() -> None:
    ece = {"random": 0.01, "fine_tune": 0.1004, "fine_tune+temperature": 0.0996, "dwp": 0.2}
    summary = [SummaryRow(arm, 5, "ece", mean, mean - 0.01, mean + 0.01, 8, 8) for arm, mean in ece.items()]
    dice = {5: {"random": 0.03, "fine_tune": 0.7, "dwp": 0.6}}
    table = score_table(summary, list(ece), "ece", dice)
    assert [line["cells"][0]["best"] for line in table["lines"]] == [False, True, True, False]
    assert table["lines"][0]["cells"][0]["interval"] == "[0.000, 0.020]"
