"""Progress of a stage: a bar with the time left on a terminal, plain lines elsewhere.

Workers run in other processes, perhaps on other machines, so each writes its progress to a small file that the command
reads twice a second.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from data.plain_number import plain_duration
from pipeline.execution.stopping import StopFile, StopRequestedError
from pipeline.storage.digest import digest

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

PROGRESS = ".progress"
"""Folder of the workspace in which running units report their progress."""
STOP = "stop"
"""Name of the file that asks all units of a command to stop."""
_WRITE_EVERY = 0.5
_LOOK_EVERY = 0.5
_LINE_EVERY = 30.0


def progress_file(folder: Path, key: str) -> Path:
    """The file in which a unit reports its progress; it exists while the unit is running."""
    return folder / digest(key)[:16]


def time_left(seconds: float, fraction: float) -> float | None:
    """Seconds that are left if this share took so long; `None` before anything is done, and at the end."""
    return seconds * (1 - fraction) / fraction if 0 < fraction < 1 else None


class ProgressFile:
    """Reports the progress of a unit and passes on requests to stop.

    Args:
        path: the file; a file `stop` next to it requests a stop.
        saves: whether the unit checks `stop_requested` itself and saves before it stops.
    """

    def __init__(self, path: Path, saves: bool = False) -> None:
        self._path = path
        self._saves = saves
        self._stop = StopFile(path.parent / STOP)
        self._written = 0.0

    @property
    def stop_requested(self) -> bool:
        """Whether the command was asked to stop."""
        return self._stop.requested

    def begin(self) -> None:
        """Shows that the unit is running."""
        self._path.write_text("0")

    def __call__(self, fraction: float) -> None:
        """Reports the fraction done, from 0 to 1; cheap enough for every training step.

        Raises:
            StopRequestedError: the command was asked to stop, and the unit has nothing to save.
        """
        if not self._saves and self.stop_requested:
            raise StopRequestedError("stopped on request")
        now = time.monotonic()
        if now - self._written >= _WRITE_EVERY:
            self._written = now
            # Deliberately not atomic: the reader skips a torn number, and nothing depends on it.
            self._path.write_text(f"{fraction:.4f}")


class StageProgress:
    """Shows the progress of a stage, whose units have a size in any measure and write their progress to a folder."""

    def __init__(self, stage: str, sizes: Mapping[str, float], folder: Path) -> None:
        self._stage = stage
        self._sizes = dict(sizes)
        self._files = {progress_file(folder, key): key for key in sizes}
        self._finished: set[str] = set()
        self._total = max(sum(self._sizes.values()), 1e-9)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._start = self._line = time.monotonic()
        self._bar: Progress | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> StageProgress:
        if sys.stderr.isatty() and self._sizes:
            self._bar = self._make_bar()
            self._bar.start()
        if self._sizes:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def _make_bar(self) -> Progress:
        # rich is imported late, because the command must start fast.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[units]}"),
        ]
        bar = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), Remaining(), console=Console(stderr=True))
        bar.add_task(self._stage, total=self._total, units=f"0/{len(self._sizes)}")
        return bar

    def finished(self, key: str, state: str, seconds: float, message: str) -> None:
        """Counts a unit as finished and logs it if there is no bar; failures are always logged."""
        with self._lock:
            self._finished.add(key)
            done = len(self._finished)
        if state == "failed":
            logger.error("%s %d/%d %s failed: %s", self._stage, done, len(self._sizes), key, message)
        elif self._bar is None:
            logger.info("%s %d/%d %s (%s)", self._stage, done, len(self._sizes), key, plain_duration(seconds))
        self._show()

    def _fraction(self) -> float:
        with self._lock:
            finished = set(self._finished)
        work = sum(self._sizes[key] for key in finished)
        for path, key in self._files.items():
            if key not in finished:
                try:
                    work += self._sizes[key] * min(max(float(path.read_text()), 0.0), 1.0)
                except (OSError, ValueError):
                    continue
        return work / self._total

    def _show(self) -> None:
        if self._bar is not None:
            units = f"{len(self._finished)}/{len(self._sizes)}"
            self._bar.update(self._bar.task_ids[0], completed=self._fraction() * self._total, units=units)

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            self._show()
            now = time.monotonic()
            if self._bar is None and now - self._line >= _LINE_EVERY:
                self._line = now
                fraction = self._fraction()
                if (left := time_left(now - self._start, fraction)) is not None:
                    logger.info("%s: %.0f %%, about %s left", self._stage, 100 * fraction, plain_duration(left))
