"""TensorBoard and MLflow in addition to the log, for watching a training in a browser.

Their files contain times, so they lie in a separate folder, `tracking/`: all other files are a function of the seed.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from data.errors import ConfigError
from data.options import Options

logger = logging.getLogger(__name__)

TRACKING = "tracking"
_RUN = "training"


class Use(StrEnum):
    """Whether an optional tracker is used."""

    AUTO = "auto"
    """If its package is installed."""
    ON = "on"
    """Always; without its package, the training does not start."""
    OFF = "off"
    """Never."""


class TrackingOptions(Options):
    """Trackers in addition to `log.jsonl` and `history.csv`, which are always written."""

    tensorboard: Use = Use.AUTO
    """TensorBoard event files, shown by `tensorboard --logdir WORKSPACE`."""
    mlflow: Use = Use.AUTO
    """MLflow runs in a file store in each unit's folder, never on a server: Graft uses no network."""


class Tracker(Protocol):
    """Stores numbers by name and step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Stores the numbers of a step."""

    def close(self) -> None:
        """Writes remaining data."""


class TensorBoardTracker:
    """Writes TensorBoard event files into a folder, which is emptied first.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Stores the numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes remaining data."""
        self._writer.close()


class MLflowTracker:
    """Writes one MLflow run to a file store, shown by `mlflow ui --backend-store-uri FOLDER`.

    Earlier runs in the store are marked as deleted.

    Raises:
        ImportError: mlflow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        # Read when mlflow is imported and when the store is opened: nothing is sent anywhere, and a file store is
        # allowed (a database needs packages that mlflow-skinny lacks).
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=folder.absolute().as_uri())
        # The store is emptied through mlflow itself: it caches the stores that a process has opened, and fails if the
        # folder of one was removed.
        known = self._client.get_experiment_by_name(_RUN)
        experiment = known.experiment_id if known else self._client.create_experiment(_RUN)
        for earlier in self._client.search_runs([experiment]):
            self._client.delete_run(earlier.info.run_id)
        self._run: str = self._client.create_run(experiment).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Stores the numbers of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._run)


_TRACKERS: dict[str, type[TensorBoardTracker] | type[MLflowTracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MLflowTracker,
}


def open_trackers(options: TrackingOptions, folder: Path) -> list[Tracker]:
    """Opens the requested trackers in `tracking/` of a unit's folder, empty: a resumed training replays its log.

    Raises:
        ConfigError: a tracker is on and its package is not installed.
    """
    opened: list[Tracker] = []
    for package, tracker in _TRACKERS.items():
        use: Use = getattr(options, package)
        if use is Use.OFF:
            continue
        try:
            opened.append(tracker(folder / TRACKING / package))
        except ImportError as error:
            if use is Use.ON:
                raise ConfigError(
                    f"`tracking.{package}: on`, but {package} cannot be imported ({error})",
                    expected=f"{package} installed, or `auto` or `off`",
                    fix="run `pip install '.[tracking]'` in the folder of Graft's clone",
                ) from error
            logger.debug("%s is not installed; the training is not tracked with it", package)
    return opened
