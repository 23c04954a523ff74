"""Stopping a command early and cleanly: a scheduler's signal becomes a request that every unit sees at its next step.

Batch systems send SIGTERM or SIGUSR1 some time before they take a machine away. The command and its workers then save
their work and end with an exit code that a scheduler can requeue on. Workers may run on other machines, so the request
is a file in the workspace; a worker that gets the signal itself sees it at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from data.errors import GraftError

REQUEUE = 75
"""Exit code of a command that was asked to stop and can be resumed: EX_TEMPFAIL of sysexits.h."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_LOOK_EVERY = 0.5

_signalled = threading.Event()


class StopRequestedError(GraftError):
    """The command was asked to stop; what is finished and the last checkpoints are kept."""

    exit_code = REQUEUE


class StopSignal(KeyboardInterrupt):
    """A signal that arrived while no unit was running; like Ctrl-C, ordinary code should not catch it."""


@contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handles the signals inside the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ends_on_signal() -> Iterator[None]:
    """Ends the block with `StopSignal` on SIGTERM or SIGUSR1, unless something inside handles them."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise StopSignal

    with _handling(handle):
        yield


@contextmanager
def stops_on_signal(on_signal: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Treats SIGTERM and SIGUSR1 as a request to stop inside the block; calls `on_signal` at the first one."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not _signalled.is_set():
            _signalled.set()
            on_signal()

    _signalled.clear()
    try:
        with _handling(handle):
            yield
    finally:
        _signalled.clear()


def listen_in_worker(on_signal: Callable[[int], None] = lambda number: None) -> None:
    """Makes a process that only runs units treat the signals of batch systems as a request to stop.

    Args:
        on_signal: called with the number of each signal.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _signalled.set()
        on_signal(number)

    if threading.current_thread() is threading.main_thread():
        for number in (*_SIGNALS, signal.SIGUSR2):
            signal.signal(number, handle)


class StopFile:
    """The request to stop, as a file that every worker of a command checks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = 0.0
        self._seen = False

    def request(self) -> None:
        """Asks all units to stop."""
        self._path.touch()

    @property
    def is_there(self) -> bool:
        """Whether the file exists, whatever this process was told."""
        return self._path.exists()

    @property
    def requested(self) -> bool:
        """Whether this process got the signal or the file exists; cheap enough for every training step."""
        now = time.monotonic()
        if not self._seen and now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._seen = self._path.exists()
        return self._seen or _signalled.is_set()
