"""`computing.precision: auto`: what the machine has, settled once for a study, and told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import pipeline.stages.settled_computing as settled
import pipeline.training.computing as computing
from pipeline.config.study import StudyConfig
from pipeline.execution.in_process import InProcessBackend
from pipeline.execution.unit import Unit
from pipeline.execution.units import Execution, run_units
from pipeline.stages.settled_computing import settled_computing
from pipeline.storage.workspace import Workspace
from pipeline.training.computing import Computing, ComputingOptions, Precision


@pytest.fixture(autouse=True)
def fresh_warning() -> None:
    settled._warn_of_slow_steps.cache_clear()


def processor(monkeypatch: pytest.MonkeyPatch, *, has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)


def study(precision: str) -> StudyConfig:
    data = {"a": {"path": "a", "modality": "mr", "foreground": ["x"]}}
    roles = {"source": {"dataset": "a", "patients": 3}, "target": {"dataset": "a", "pool": 10, "test": 2}}
    return StudyConfig.model_validate(
        {"name": "tiny", "datasets": data, **roles, "computing": {"precision": precision}}
    )


def finish(folder: Path, progress: object) -> None:
    (folder / "file").write_text("done")


def train(workspace: Workspace, precision: str) -> None:
    unit = Unit("train-source", "network-00", {"computing": {"precision": precision}}, finish)
    run_units("train-source", [unit], workspace, Execution(backend=InProcessBackend()))


def test_a_network_taken_from_a_pack_settles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unit = Unit("train-source", "network-00", {"taken": {"networks/network-00/snapshot-00.safetensors": "x"}}, finish)
    run_units("train-source", [unit], Workspace(tmp_path), Execution(backend=InProcessBackend()))
    processor(monkeypatch, has=True)
    assert settled_computing(study("auto"), Workspace(tmp_path), "cpu").precision is Precision.BFLOAT16


def test_a_trunk_settles_it_for_its_branches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unit = Unit("train-trunk", "network", {"computing": {"precision": "float32"}}, finish)
    run_units("train-trunk", [unit], Workspace(tmp_path), Execution(backend=InProcessBackend()))
    processor(monkeypatch, has=True)
    assert settled_computing(study("auto"), Workspace(tmp_path), "cpu").precision is Precision.FLOAT32


def test_auto_is_the_default_and_takes_what_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ComputingOptions().precision is Precision.AUTO
    for has, expected in ((True, Precision.BFLOAT16), (False, Precision.FLOAT32)):
        processor(monkeypatch, has=has)
        assert settled_computing(study("auto"), Workspace(tmp_path), "cpu").precision is expected
        with Computing(ComputingOptions(), "cpu").autocast():
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype is (torch.bfloat16 if has else torch.float32)


def test_a_gpu_that_only_emulates_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not computing.has_bfloat16("cuda")


def test_a_study_goes_on_in_the_precision_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for began in (Precision.BFLOAT16, Precision.FLOAT32):
        workspace = Workspace(tmp_path / began)
        train(workspace, began)
        for has in (True, False):
            processor(monkeypatch, has=has)
            assert settled_computing(study("auto"), workspace, "cpu").precision is began
    assert [r.message for r in caplog.records if "started in bfloat16" in r.message]
    # What the configuration names wins.
    assert settled_computing(study("float32"), Workspace(tmp_path / "bfloat16"), "cpu").precision is Precision.FLOAT32


def test_bfloat16_on_a_processor_without_it_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    processor(monkeypatch, has=True)
    settled_computing(study("bfloat16"), Workspace(tmp_path), "cpu")
    assert not caplog.records
    processor(monkeypatch, has=False)
    for _ in range(2):
        assert settled_computing(study("bfloat16"), Workspace(tmp_path), "cpu").precision is Precision.BFLOAT16
    [record] = caplog.records
    assert "about ten times as long" in record.message
    assert "`computing.precision: auto`" in record.message


def test_the_gpu_of_a_job_is_taken_to_have_bfloat16_where_this_machine_has_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert computing.has_bfloat16("cuda")
