from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.report.study_files import StudyFiles
from pipeline.report.summary_json import StudySummary, study_summary


def summary_of(root: Path) -> dict:
    return json.loads(json.dumps(study_summary(StudyFiles(root)).as_json(), allow_nan=False))


def test_holds_the_numbers_of_the_table_and_the_differences(whole_workspace: Path) -> None:
    summary = summary_of(whole_workspace)
    with (whole_workspace / "results/summary.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(summary["metrics"]) == len(table)
    for row, line in zip(summary["metrics"], table, strict=True):
        assert (row["arm"], str(row["n"]), row["metric"]) == (line["arm"], line["n"], line["metric"])
        assert row["mean"] == pytest.approx(float(line["mean"]))
        if row["metric"] == "dice_worst_tenth":  # two of 13 patients
            assert row["interval"] is None
            assert "the worst tenth is 2 of 13 test patients, too few" in row["no_interval"]
        else:
            assert row["interval"] == [pytest.approx(float(line["ci_low"])), pytest.approx(float(line["ci_high"]))]
            assert row["no_interval"] is None
    assert summary["arms"] == ["random", "fine_tune", "fine_tune_ends", "dwp"]
    assert (summary["sizes"], summary["repeats"], summary["test_patients"]) == ([5, 10], 2, 13)
    means = {(r["arm"], r["n"]): r["mean"] for r in summary["metrics"] if r["metric"] == "dice"}
    assert len(summary["differences"]) == 6
    for d in summary["differences"]:
        assert d["mean"] == pytest.approx(means[d["arm"], d["n"]] - means[d["rival"], d["n"]])
        assert d["interval"][0] <= d["mean"] <= d["interval"][1]
        assert 0 <= d["p_holm"] <= 1
    for told in summary["told_apart"]:
        assert means[told["arm"], told["n"]] == max(mean for (_, n), mean in means.items() if n == told["n"])
        others = {*told["ahead_of"], *told["not_told_from"]}
        assert others == {*summary["arms"]} - {told["arm"]}
        assert told["sentence"].startswith(f"At n = {told['n']}, “{told['arm']}”")
    assert summary["provenance"]["git_commit"] == "0123abc"
    assert summary["provenance"]["machine"]["device"] == "cpu"
    assert "stages" not in summary["provenance"]
    assert summary["format"] == StudySummary.FORMAT


def test_what_is_undefined_is_null(tmp_path: Path, workspace_builder: Callable[..., Path]) -> None:
    root = workspace_builder(tmp_path, patients=3, repeats=1)
    path = root / "results/summary.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    lines[1] = ",".join([*cells[:3], "", "", "", *cells[6:]])
    path.write_text("\n".join(lines) + "\n")
    summary = summary_of(root)
    assert summary["metrics"][0]["mean"] is None
    assert summary["metrics"][0]["interval"] is None
    assert summary["differences"][0]["p_holm"] is None  # too few patients for a test
