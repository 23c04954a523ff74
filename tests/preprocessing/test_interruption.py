"""A wish to stop is seen within a long step, not only before the next one."""

from __future__ import annotations

import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.volume import Volume
from preprocessing.chain import Chain, PreprocessingOptions
from preprocessing.interruption import asking
from preprocessing.itk_image import use_itk_threads
from preprocessing.registration import Degrees, MutualInformation, Optimiser, shift
from preprocessing.skull_strip import SkullStripMethod, SkullStripOptions
from preprocessing.subject import Subject
from preprocessing.template import load_template


class _StopError(Exception):
    pass


class _AfterCalls:
    """Raises at the call of a number."""

    def __init__(self, number: int) -> None:
        self.calls, self.number = 0, number

    def __call__(self) -> None:
        self.calls += 1
        if self.calls >= self.number:
            raise _StopError


def test_a_registration_stops_at_its_next_iteration_and_goes_on_elsewhere(capfd: pytest.CaptureFixture) -> None:
    use_itk_threads(1)
    image = load_template(8.0).image
    information = MutualInformation(image, image)
    optimiser = Optimiser(Degrees.AFFINE, iterations=50)
    counted = _AfterCalls(10**9)
    with asking(counted):
        whole = information.optimise(shift([6, 0, 0]), optimiser)
    assert counted.calls > 12
    with pytest.raises(_StopError), asking(wish := _AfterCalls(5)):
        information.optimise(shift([6, 0, 0]), optimiser)
    assert wish.calls == 5
    assert capfd.readouterr().err == ""
    np.testing.assert_array_equal(information.optimise(shift([6, 0, 0]), optimiser).matrix, whole.matrix)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in program is a script")
def test_a_program_that_runs_for_minutes_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "hd-bet"
    program.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(600)\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path))
    chain = Chain(PreprocessingOptions(skull_strip=SkullStripOptions(method=SkullStripMethod.HD_BET)))
    calls = _AfterCalls(3)
    image = Volume(np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32), np.eye(4))
    begun = time.monotonic()
    with pytest.raises(_StopError):
        chain.apply(Subject("a", {"T1": image}), lambda share: calls())
    assert time.monotonic() - begun < 60
