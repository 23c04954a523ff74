"""A case that is being preprocessed stops at its next step when the command is asked to stop."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from data.case import Case, ImageSource
from data.image_file import write_volume
from data.volume import Volume
from pipeline.execution.progress import STOP, ProgressFile
from pipeline.execution.stopping import StopRequestedError
from pipeline.execution.unit import Outcome
from pipeline.execution.units import StageRun
from pipeline.stages import preprocess
from pipeline.stages.preprocess import preprocess_case
from pipeline.storage.workspace import Workspace
from preprocessing.chain import Modality, default_options


def test_the_wish_to_stop_is_seen_between_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(Volume(np.random.default_rng(0).random((12, 12, 12), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    case = Case("a", "a", {"T1": ImageSource(tmp_path / "a.nii.gz")})
    options = default_options(Modality.MR)
    folder = tmp_path / "unit"
    folder.mkdir()
    (tmp_path / STOP).touch()
    monkeypatch.setattr("preprocessing.resampling.Resampling.apply", lambda *_: pytest.fail("a step was run"))
    with pytest.raises(StopRequestedError):
        preprocess_case(folder, ProgressFile(tmp_path / "progress"), case=case, channels=["T1"], options=options)
    assert not list(folder.iterdir())


def test_scans_that_were_given_up_are_not_counted_as_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = ("done", "stopped", "reused", "stopped", "failed")
    outcomes = tuple(Outcome(f"d/{number}", state, message="x") for number, state in enumerate(states))
    with caplog.at_level(logging.INFO):
        preprocess._summarise(StageRun(outcomes, 1.0), {}, Workspace(tmp_path))
    assert any("2 done, 0 of them suspect, 1 failed" in message for message in caplog.messages)
