"""A scheduler's signals become the wish to stop, and only inside the block that asks for them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pipeline.execution.stopping import StopFile, StopSignal, ends_on_signal, stops_on_signal

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_the_wish_to_stop_and_is_passed_on_once(number: signal.Signals, tmp_path: Path) -> None:
    before, file = signal.getsignal(number), StopFile(tmp_path / "stop")
    asked: list[int] = []
    with stops_on_signal(lambda: asked.append(1)):
        assert not file.requested
        for _ in range(2):
            os.kill(os.getpid(), number)
        assert file.requested
    assert asked == [1]
    assert signal.getsignal(number) is before
    assert not StopFile(tmp_path / "stop").requested


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_handles_it_a_signal_ends_the_block(number: signal.Signals) -> None:
    with pytest.raises(StopSignal), ends_on_signal():
        os.kill(os.getpid(), number)
