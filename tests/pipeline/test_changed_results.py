"""Tables and pages of a workspace that somebody changed are never written over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.errors import WorkspaceError
from pipeline.config.report_options import ReportOptions
from pipeline.evaluation.options import EvaluationOptions
from pipeline.evaluation.study_results import SUMMARY
from pipeline.execution.units import Execution
from pipeline.report.quality_index import build_quality_index
from pipeline.stages import evaluate, preprocess
from pipeline.storage.file_names import FILES
from pipeline.storage.workspace import Workspace


def evaluate_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the tables of a study without arms."""
    config: Any = SimpleNamespace(
        evaluation=EvaluationOptions(calibration=None),
        target_training=SimpleNamespace(arms={}),
        report=ReportOptions(),
        seed=0,
    )
    resources: Any = SimpleNamespace(execution=lambda config: Execution(jobs=1, threads=1))
    monkeypatch.setattr(evaluate, "units", lambda *_: [])
    monkeypatch.setattr(evaluate, "read_plan", lambda *_: SimpleNamespace(folds=None))
    evaluate.run(config, workspace, resources)


def test_a_table_that_somebody_changed_stops_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    evaluate_nothing(workspace, monkeypatch)
    (workspace.results / "summary.json").write_text("{}")
    evaluate_nothing(workspace, monkeypatch)
    table = workspace.results / SUMMARY
    table.write_text("my figures")
    with pytest.raises(WorkspaceError, match=rf"results/{SUMMARY}: has been changed since Graft wrote it") as refusal:
        evaluate_nothing(workspace, monkeypatch)
    assert refusal.value.exit_code == 2
    assert table.read_text() == "my figures"
    assert (workspace.results / "summary.json").read_text() == "{}"


def test_a_page_of_the_cases_that_somebody_changed_stops_the_preprocessing(tmp_path: Path) -> None:
    folder = tmp_path / preprocess.STAGE
    (folder / "heads").mkdir(parents=True)
    page = build_quality_index(folder, {})
    assert build_quality_index(folder, {"heads/a": "is truncated"}) == page
    page.write_text("with my remarks")
    nothing: Any = None
    with pytest.raises(WorkspaceError, match=r"preprocess/index.html: has been changed since Graft wrote it"):
        preprocess.run(nothing, Workspace(tmp_path), nothing)
    with pytest.raises(WorkspaceError, match="has been changed"):
        build_quality_index(folder, {})
    assert page.read_text() == "with my remarks"
    assert {path.name for path in folder.iterdir()} == {"heads", "index.html", FILES}
