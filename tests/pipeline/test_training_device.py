from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.execution.provenance import read_provenance, record_stage, start_provenance
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.storage.workspace import Workspace


def work(folder: Path, progress: Any, device: str = "") -> None:
    (folder / "made").write_text(device)


def run(workspace: Workspace, unit: Unit) -> dict[str, Any]:
    start_provenance(workspace, seed=0, device="auto")
    record_stage(workspace, unit.stage, [unit], run_units(unit.stage, [unit], workspace, Execution()))
    return read_provenance(workspace).as_json()


def test_the_device_that_was_trained_on_is_recorded_and_kept(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    trains = Unit("infer", "a", {}, work, {"device": "cpu"})
    assert run(workspace, Unit("check", "a", {}, work))["machine"]["device"] == "auto"
    assert run(workspace, trains)["machine"]["device"] == "cpu"
    # Reused on a machine with another device, the unit was still trained where it was trained.
    record = run(workspace, Unit("infer", "a", {}, work, {"device": "cuda"}))
    assert record["machine"]["device"] == "cpu"
    assert record["stages"]["infer"]["device"] == "cpu"
    assert "device" not in record["stages"]["check"]
