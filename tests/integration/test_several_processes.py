"""Two processes that train a network together, as on two GPUs, come to what one process comes to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.cli import main
from pipeline.storage.tensors import load_tensors

pytestmark = pytest.mark.slow

_LAUNCH = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    *("-m", "pipeline.cli"),
]


@pytest.fixture
def study(write_cohort: Callable[..., Path], write_study: Callable[..., Path], tmp_path: Path) -> Path:
    # Of the loss only the cross-entropy is a mean over patches, which two processes can share exactly, in float32.
    return write_study(
        tmp_path / "tiny.yaml",
        write_cohort(tmp_path / "cohort"),
        patches={"batch": 2},
        computing={"precision": "float32"},
        source_training={"networks": 1, "cycles": 1, "steps_per_cycle": 2, "likelihood": "cross_entropy"},
    )


def launch(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*_LAUNCH, *arguments], capture_output=True, text=True, timeout=200, check=False, env=environment
    )


def test_two_processes_train_one_network(study: Path, tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    for stage in ("check", "preprocess"):
        assert main([stage, str(study), "--workspace", str(alone), "--jobs", "1"]) == 0
    shutil.copytree(alone, together)
    done = launch(["train-source", str(study), "--workspace", str(together)])
    assert done.returncode == 0, done.stderr[-2000:]
    assert main(["train-source", str(study), "--workspace", str(alone), "--jobs", "1"]) == 0
    name = Path("train-source") / "network-00" / "snapshot-00.safetensors"
    first, second = load_tensors(together / name), load_tensors(alone / name)
    start = load_tensors((alone / name).with_name("initial.safetensors"))
    for key, value in second.items():
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(start[key], value) for key, value in second.items())
    # A plain command then finds the work done.
    marker = (together / "train-source" / "network-00" / "done.json").stat().st_mtime_ns
    assert main(["train-source", str(study), "--workspace", str(together), "--jobs", "1"]) == 0
    assert (together / "train-source" / "network-00" / "done.json").stat().st_mtime_ns == marker


def test_only_source_networks_are_trained_together(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", str(study)]) == 2
    assert "2 processes for check" in capsys.readouterr().err


def test_a_batch_must_be_shared_evenly(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("check", "preprocess"):
        assert main([stage, str(study), "--workspace", str(tmp_path / "w"), "--jobs", "1"]) == 0
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train-source", str(study), "--workspace", str(tmp_path / "w")]) == 2
    assert "`patches.batch: 2` for 3 processes" in capsys.readouterr().err
