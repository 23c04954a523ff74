"""A study whose every name is odd, and allowed, goes through all stages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.evaluation.csv_rows import read_rows
from pipeline.evaluation.tables import CaseRow

pytestmark = pytest.mark.slow

ARMS = ["=1+1 [b]", "肿瘤 $a_$"]


@pytest.mark.skipif(os.environ.get("GRAFT_FAULTS") != "all", reason="a whole study; `make faults` runs it")
def test_odd_names_go_through_all_stages(
    write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path: Path
) -> None:
    cohort = write_cohort(tmp_path / "$c_$", cases=6)
    # The cases get odd names by a manifest; their files keep theirs.
    cases = [f"+{i} <b>Ä$x_$" for i in range(6)]
    rows = [f"{case};imagesTr/case_{i}.nii.gz;labelsTr/case_{i}.nii.gz" for i, case in enumerate(cases)]
    table = cohort / "cases.csv"
    table.write_bytes("\r\n".join(["sep=;", "Case;T1 $y_$;Label", *rows, ""]).encode("utf-16"))
    (cohort / "labels.csv").write_text("value,name\n1,@links\n2,rechts %d {0}\n")
    (cohort / "patients.csv").unlink()
    foreground = {"Läsion $z_$": ["@links"], "=cmd()": ["rechts %d {0}"]}
    entry = {"path": str(table), "modality": "mr", "foreground": foreground}
    config = write_study(
        tmp_path / "odd.yaml",
        cohort,
        name="Stüdie %s 1",
        datasets={"d [e]": entry},
        source={"dataset": "d [e]", "patients": 2},
        target={"dataset": "d [e]", "pool_cases": cases[:2], "test_cases": cases[2:4], "pool": None, "test": None},
        source_training={"networks": 1, "cycles": 1},
        target_training={
            "arms": {ARMS[0]: {"preset": "fine_tune"}, ARMS[1]: {"preset": "random"}},
            "sizes": [1],
            "reference_sizes": [],
        },
    )
    workspace = tmp_path / "workspace"
    assert main(["run", str(config), "--workspace", str(workspace), "--jobs", "1"]) == 0
    read = read_rows(workspace / "results" / "cases.csv", CaseRow)
    assert {row.arm for row in read} == {*ARMS}
    assert {row.case for row in read} == {*cases[2:4]}
    assert {row.label for row in read} == {*foreground}
    text = (workspace / "results" / "cases.csv").read_text(encoding="utf-8")
    assert all(line[0] not in "=+@" and ",=" not in line and ",+" not in line for line in text.splitlines())
    page = (workspace / "report" / "index.html").read_text(encoding="utf-8")
    assert "肿瘤 $a_$" in page
    assert "<b>Ä" not in page
    model = next(workspace.glob("infer/*/n01/repeat-0/model"))
    assert list(json.loads((model / "model.json").read_text(encoding="utf-8"))["classes"]) == sorted(foreground)
