"""The log of a training: one JSON line for each logged step, and a CSV table at the end.

Both are functions of the seed. A resumed training truncates the log to the step of its checkpoint, so it ends with the
same bytes as an uninterrupted one. Values that depend on the clock (speed, time left) go to a separate file.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from data.plain_number import plain_duration
from pipeline.storage.atomic import write_text
from pipeline.storage.file_names import HISTORY
from pipeline.training.tracking import Tracker

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""Numbers by column; `None` for values that are not finite."""


@dataclass
class History:
    """Rows of numbers, one for each logged step; written as CSV."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Mapping[str, float]) -> None:
        """Logs a step; only the column `step` is required."""
        self.rows.append(dict(row))

    def sync(self) -> None:
        """Waits until all rows are where a checkpoint can rely on them."""

    def write(self, path: Path) -> None:
        """Writes the rows; columns are those of all rows in order of appearance."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(path, text.getvalue())


class TrainingLog(History):
    """Writes `log.jsonl` and `speed.jsonl` while a training runs, and `history.csv` at its end.

    Args:
        folder: of the unit.
        trackers: get every row too, from the first on.
        start: number of earlier steps; later rows belong to an interrupted attempt and are dropped.

    Attributes:
        rows: logged so far; `step` counts from 1.
    """

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = (), *, start: int = 0) -> None:
        self._path = folder / "log.jsonl"
        self._speed_path = folder / "speed.jsonl"
        self._table = folder / HISTORY
        self._trackers = list(trackers)
        super().__init__(_cut_back(self._path, start))
        speeds = _cut_back(self._speed_path, start)
        for row in sorted([*self.rows, *speeds], key=lambda row: row["step"]):
            self._track(row)
        self._stream: IO[str] = self._path.open("a", encoding="utf-8")
        self._speed_stream: IO[str] = self._speed_path.open("a", encoding="utf-8")

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, row: Mapping[str, float]) -> None:
        """Logs a step; only the column `step` is required. Rows are safe from a kill once this has returned."""
        kept = _plain(row)
        self.rows.append(kept)
        _append(self._stream, kept)
        self._track(kept)

    def write_speed(self, step: int, patches_per_second: float, seconds_left: float) -> None:
        """Logs the speed of the training and the time left."""
        row = _plain({"step": step, "patches_per_second": patches_per_second, "seconds_left": seconds_left})
        _append(self._speed_stream, row)
        self._track(row)
        logger.info("step %d: %.2f patches/s, about %s left", step, patches_per_second, plain_duration(seconds_left))

    def sync(self) -> None:
        """Waits until all rows are on disk."""
        os.fsync(self._stream.fileno())

    def finish(self) -> None:
        """Closes the log and writes `history.csv`."""
        self.close()
        self.write(self._table)

    def remove(self) -> None:
        """Closes the log and removes its lines, where the table is enough."""
        self.close()
        for path in (self._path, self._speed_path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the files and trackers; the log can be opened again later."""
        if self._stream.closed:
            return
        self._stream.close()
        self._speed_stream.close()
        for tracker in self._trackers:
            tracker.close()

    def _track(self, row: Row) -> None:
        values = {name: value for name, value in row.items() if name != "step" and value is not None}
        for tracker in self._trackers:
            tracker.log(int(row["step"]), values)


class SpeedMeter:
    """Measures patches per second and the time left since the last measurement, from the step `start` on."""

    def __init__(self, patches: int, steps: int, start: int = 0) -> None:
        self._patches = patches
        self._steps = steps
        self._step = start
        self._time = time.monotonic()

    def measure(self, step: int) -> tuple[float, float]:
        """Returns patches per second since the last call, and the seconds left at that speed, after `step` steps."""
        now = time.monotonic()
        seconds_per_step = max(now - self._time, 1e-9) / max(step - self._step, 1)
        self._step, self._time = step, now
        return self._patches / seconds_per_step, (self._steps - step) * seconds_per_step


def _plain(row: Mapping[str, float]) -> Row:
    """Converts the numbers to what is read back: JSON has no NaN, and the table leaves such a field empty."""
    plain = {name: value if isinstance(value, int) else float(value) for name, value in row.items()}
    return {name: value if math.isfinite(value) else None for name, value in plain.items()}


def _append(stream: IO[str], row: Row) -> None:
    stream.write(json.dumps(row, allow_nan=False) + "\n")
    stream.flush()


def _cut_back(path: Path, step: int) -> list[Row]:
    """Truncates the file after a step and returns its rows; an unfinished line of a killed process is dropped."""
    if not path.exists():
        return []
    kept: list[tuple[str, Row]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n") or row["step"] > step:
            break
        kept.append((line, row))
    write_text(path, "".join(line for line, _ in kept))
    return [row for _, row in kept]
